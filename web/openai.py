"""OpenAI's wire format as the API speaks it: embeddings (see shared.openai), models, lists, and the body of every error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson

from shared import openai
from shared.errors import UmekomiError
from shared.interactive import Answer
from shared.models import ModelConfig
from shared.openai import (
    EmbeddingsFields,
    EmbeddingsRequest,
    EncodingFormat,
    check_prompt,
    read_fields,
    read_object,
    wrong_input,
)
from shared.presence import ModelState
from shared.settings import Settings

__all__ = [
    "JSON",
    "EmbeddingsFields",
    "EmbeddingsRequest",
    "ServedModel",
    "check_prompt",
    "error_object",
    "list_object",
    "model_object",
    "read_embeddings",
    "read_fields",
    "read_object",
    "write_embeddings",
    "write_positions",
    "wrong_input",
]

JSON = "application/json"
# A header may name so many characters of positions; beyond that the count in `usage` must do.
MAX_POSITIONS_CHARACTERS = 2000


def read_embeddings(body: bytes, settings: Settings) -> EmbeddingsRequest:
    """The request in a body of POST /v1/embeddings. Raises BadRequest, naming the parameter."""
    return openai.read_embeddings(read_object(body), max_inputs=settings.max_inputs, max_text_bytes=settings.max_text_bytes)


def write_embeddings(model: str, answer: Answer, encoding_format: EncodingFormat | None) -> bytes:
    """The answer's body, straight from the array: no float becomes a Python object."""
    # orjson reads the memory as it lies; an array cut out of a message may not lie on a float's boundary.
    vectors = np.require(answer.vectors, np.float32, ["C", "A"])
    body = openai.embeddings_object(model, vectors, sum(answer.tokens), len(answer.truncated), encoding_format)
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def write_positions(positions: Sequence[int]) -> str:
    """Positions for a header, comma-separated, as many as fit."""
    text = ",".join(map(str, positions[:MAX_POSITIONS_CHARACTERS]))
    return text if len(text) <= MAX_POSITIONS_CHARACTERS else text[:MAX_POSITIONS_CHARACTERS].rpartition(",")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model as GET /v1/models shows it: its entry, and what the live workers say of it."""

    config: ModelConfig
    created: int  # unix seconds
    state: ModelState | Literal["unknown"]  # unknown: Redis is away
    workers: int = 0  # live ones that serve it
    reason: str | None = None
    dimensions: int | None = None
    max_tokens: int | None = None
    dtype: str | None = None
    device: str | None = None


def model_object(model: ServedModel) -> dict[str, Any]:
    """OpenAI's model object, and what we know besides."""
    return {
        "id": model.config.name,
        "object": "model",
        "created": model.created,
        "owned_by": "umekomi",
        "dimensions": model.dimensions,
        "max_tokens": model.max_tokens,
        "dtype": model.dtype,
        "device": model.device,
        "state": model.state,
        "reason": model.reason,
    }


def list_object(entries: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page of a list."""
    return {
        "object": "list",
        "data": entries,
        "first_id": entries[0]["id"] if entries else None,
        "last_id": entries[-1]["id"] if entries else None,
        "has_more": has_more,
    }


def error_object(error: UmekomiError, status: int) -> dict[str, Any]:
    """{"error": {message, type, param, code}}."""
    return openai.error_body(error.message, error.reason, error.param, status)
