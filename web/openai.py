"""OpenAI's wire format as the API speaks it: embeddings (see shared.openai), models, lists, and the body of every error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, TypeVar, cast

import numpy as np
import orjson
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from shared import openai
from shared.errors import QuotaExceeded, RateLimited, UmekomiError
from shared.interactive import Answer
from shared.models import ModelConfig
from shared.openai import (
    EmbeddingsBody,
    EmbeddingsFields,
    EmbeddingsObject,
    EmbeddingsRequest,
    EncodingFormat,
    ErrorBody,
    ErrorType,
    check_prompt,
    read_fields,
    read_object,
    wrong_input,
)
from shared.presence import DownloadPresence, ModelKind, ModelState
from shared.settings import Settings

__all__ = [
    "JSON",
    "Deleted",
    "EmbeddingsBody",
    "EmbeddingsFields",
    "EmbeddingsObject",
    "EmbeddingsRequest",
    "ModelList",
    "ModelObject",
    "Page",
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
Entry = TypeVar("Entry")
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
    download: DownloadPresence | None = None
    dimensions: int | None = None
    max_tokens: int | None = None
    dtype: str | None = None
    kind: ModelKind = "embed"
    prompts: tuple[str, ...] = ()  # names a caller may give
    device: str | None = None
    memory_bytes: int | None = None  # over all live workers that have it loaded
    last_used_at: float | None = None  # unix seconds
    was_loaded: bool = False  # it is, or it had to go again


class DownloadObject(TypedDict):
    """How far a model's files are on their way from the hub."""

    done_bytes: int
    total_bytes: int
    done_files: int
    total_files: int
    eta_s: float | None


class ModelObject(TypedDict):
    """OpenAI's model object, and how the model stands over all live workers."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: ModelKind
    prompts: list[str]
    dimensions: int | None
    max_tokens: int | None
    dtype: str | None
    device: str | None
    state: ModelState | Literal["unknown"]
    reason: str | None
    download: DownloadObject | None
    memory_bytes: int | None
    last_used_at: int | None


class ModelList(TypedDict):
    """Every served model."""

    object: Literal["list"]
    data: list[ModelObject]


class Page(TypedDict, Generic[Entry]):
    """A part of a list; the next one begins `after` its `last_id`."""

    object: Literal["list"]
    data: Sequence[Entry]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(TypedDict):
    """What was there is gone."""

    id: str
    object: str
    deleted: Literal[True]


def model_object(model: ServedModel) -> ModelObject:
    """OpenAI's model object, and what we know besides."""
    return {
        "id": model.config.name,
        "object": "model",
        "created": model.created,
        "owned_by": "umekomi",
        "kind": model.kind,
        "prompts": list(model.prompts),
        "dimensions": model.dimensions,
        "max_tokens": model.max_tokens,
        "dtype": model.dtype,
        "device": model.device,
        "state": model.state,
        "reason": model.reason,
        "download": None if model.download is None else cast(DownloadObject, asdict(model.download)),
        "memory_bytes": model.memory_bytes,
        "last_used_at": None if model.last_used_at is None else int(model.last_used_at),
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


def error_object(error: UmekomiError, status: int) -> ErrorBody:
    """{"error": {message, type, param, code}}."""
    return openai.error_body(error.message, error.reason, error.param, status, _type_of(error))


def _type_of(error: UmekomiError) -> ErrorType | None:
    """What OpenAI calls it where that does not follow from the status."""
    if isinstance(error, RateLimited):
        return None if error.what == "jobs" else error.what
    return "insufficient_quota" if isinstance(error, QuotaExceeded) else None
