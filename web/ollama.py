"""Ollama's wire format, as far as its clients of embeddings use it; its error is a sentence, and nothing else."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from shared.errors import ModelNotFound
from shared.models import ModelConfig, Models
from shared.models.registry import MAX_TOLD
from web.openai import ServedModel

PREFIX = "/api/"
# What Ollama adds to a name that says no version, and what its clients therefore send.
TAG = ":latest"


class OllamaFields(BaseModel):
    """What its requests have in common; null means not given, unknown ones (`options`, `keep_alive`, …) are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    model: str | None = None
    name: str | None = Field(None, description="what `model` was called before")


class EmbedFields(OllamaFields):
    """POST /api/embed beside its input."""

    truncate: bool | None = Field(None, description="cut what is too long; false: refuse it; true")
    dimensions: int | None = Field(None, ge=0, le=2**31 - 1, description="0 is as the model gives it")


class EmbedBody(EmbedFields):
    """A text, or texts; of none there are no vectors."""

    input: str | list[str] | None = None


class EmbeddingsBody(OllamaFields):
    """POST /api/embeddings, which came before /api/embed."""

    prompt: str | None = None


class EmbedObject(TypedDict):
    """Times are in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingObject(TypedDict):
    """One vector."""

    embedding: list[float]


class Details(TypedDict):
    """What Ollama knows of a model's file."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Tag(TypedDict):
    """A model in a list."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class Tags(TypedDict):
    """Every served model."""

    models: list[Tag]


class Show(TypedDict):
    """One model."""

    modified_at: str
    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]


class OllamaError(TypedDict):
    """Ollama's errors."""

    error: str


def find(registry: Models, fields: OllamaFields) -> ModelConfig:
    """The model that a request means, with or without `:latest`. Raises ModelNotFound."""
    name = fields.model or fields.name
    if name and name not in registry.models:
        name = name.removesuffix(TAG)
    try:
        return registry.get(name)
    except ModelNotFound as error:
        # Clients look for these words, and pull.
        raise ModelNotFound(f'model "{(name or "")[:MAX_TOLD]}" not found: {error.message}', param="model") from None


def tag(model: ServedModel) -> Tag:
    """A model as GET /api/tags lists it."""
    name = tagged(model.config.name)
    return {
        "name": name,
        "model": name,
        "modified_at": _time(model.created),
        "size": 0,
        "digest": hashlib.sha256(model.config.model_dump_json().encode()).hexdigest(),
        "details": _details(model),
    }


def show(model: ServedModel) -> Show:
    """A model as POST /api/show tells of it; sizes are there once it is loaded."""
    sizes = {"embedding_length": model.dimensions, "context_length": model.max_tokens}
    return {
        "modified_at": _time(model.created),
        "modelfile": "",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "details": _details(model),
        "model_info": {"general.architecture": "bert"}
        | {f"bert.{name}": size for name, size in sizes.items() if size is not None},
        "capabilities": [] if model.config.reranking else ["embedding"],
    }


def error_object(message: str) -> OllamaError:
    """{"error": sentence}."""
    return {"error": message}


def tagged(name: str) -> str:
    """As Ollama writes a model's name."""
    return name if ":" in name else name + TAG


def _details(model: ServedModel) -> Details:
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": "bert",
        "families": ["bert"],
        "parameter_size": "",
        "quantization_level": {"float16": "F16", "bfloat16": "BF16", "int8": "Q8_0"}.get(model.dtype or "", "F32"),
    }


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat()
