"""OpenAI's wire format both ways: embeddings requests and answers, models, lists, and the body of every error."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import BadRequest, InvalidParameter, UmekomiError
from shared.interactive import Answer
from shared.models import ModelConfig
from shared.presence import ModelState
from shared.settings import Settings

JSON = "application/json"
# Ids of any tokenizer fit in 31 bits; the model's own range is the worker's to check.
MAX_TOKEN_ID = 2**31 - 1
# A header may name so many characters of positions; beyond that the count in `usage` must do.
MAX_POSITIONS_CHARACTERS = 2000

Input = TypeVar("Input", bound=BaseModel)


class EmbeddingsFields(BaseModel):
    """The fields of an embeddings request beside its input; null means not given, unknown ones are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    model: str | None = None
    dimensions: int | None = Field(None, ge=1, le=2**31 - 1)
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    input_type: Literal["query", "document"] | None = None
    prompt_name: str | None = Field(None, min_length=1, max_length=200)
    truncate: Literal["end", "error"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsRequest:
    """A checked request; exactly one of `texts` and `token_ids` is not empty."""

    fields: EmbeddingsFields
    texts: Sequence[str] = ()
    token_ids: Sequence[Sequence[int]] = ()


# Requests


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises BadRequest; of keys that are there twice the last one counts."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not valid JSON in UTF-8: {_reason(error)}", code="invalid_json") from None
    if type(value) is not dict:
        raise BadRequest("the body must be a JSON object", code="invalid_json")
    return value


def read_embeddings(body: bytes, settings: Settings) -> EmbeddingsRequest:
    """The request in a body of POST /v1/embeddings. Raises BadRequest, naming the parameter."""
    given = read_object(body)
    fields = read_fields(EmbeddingsFields, given)
    check_prompt(fields.input_type, fields.prompt_name)
    return _read_input(given.get("input"), fields, settings)


def read_fields(kind: type[Input], given: Mapping[str, Any]) -> Input:
    """The fields as their model has them. Raises InvalidParameter for the first that is wrong."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = str(wrong["loc"][0]) if wrong["loc"] else None
    code = "invalid_type" if wrong["type"].endswith("_type") else "invalid_value"
    message = wrong["msg"].removeprefix("Value error, ")
    raise InvalidParameter(f"{param}: {message[0].lower()}{message[1:]}", param=param, code=code)


def check_prompt(input_type: str | None, prompt_name: str | None) -> None:
    """Raises InvalidParameter if both are given: each of them chooses the prompt."""
    if input_type is not None and prompt_name is not None:
        raise InvalidParameter("prompt_name: give either input_type or prompt_name, not both", param="prompt_name")


def wrong_input(message: str, *, code: str | None = None) -> InvalidParameter:
    """Something is wrong with `input`; the message never quotes it."""
    return InvalidParameter(f"input: {message}", param="input", code=code)


def _read_input(value: Any, fields: EmbeddingsFields, settings: Settings) -> EmbeddingsRequest:
    if value is None:
        raise wrong_input("is required", code="missing_required_parameter")
    if type(value) is str:
        return EmbeddingsRequest(fields=fields, texts=_checked_texts([value], settings.max_text_bytes))
    if type(value) is not list:
        raise wrong_input("must be a string, a list of strings, or token ids", code="invalid_type")
    if not value:
        raise wrong_input("must not be empty")
    first = type(value[0])
    if first is int:
        return EmbeddingsRequest(fields=fields, token_ids=_checked_ids([value], settings.max_text_bytes))
    if len(value) > settings.max_inputs:
        most = settings.max_inputs
        raise wrong_input(f"at most {most} in one request, got {len(value)}; submit more as a job: POST /v1/embeddings/jobs")
    if first is list:
        return EmbeddingsRequest(fields=fields, token_ids=_checked_ids(value, settings.max_text_bytes))
    return EmbeddingsRequest(fields=fields, texts=_checked_texts(value, settings.max_text_bytes))


def _checked_texts(values: list[Any], max_text_bytes: int) -> list[str]:
    for position, text in enumerate(values):
        if type(text) is not str:
            raise wrong_input(f"the text at position {position} is not a string", code="invalid_type")
        if not text:
            raise wrong_input(f"the text at position {position} is empty")
        # A character is 1 to 4 bytes: most texts need no encoding to be seen as short enough.
        if len(text) * 4 > max_text_bytes and len(text.encode()) > max_text_bytes:
            raise wrong_input(f"the text at position {position} is over {max_text_bytes} bytes")
    return values


def _checked_ids(values: list[Any], max_ids: int) -> list[list[int]]:
    for position, ids in enumerate(values):
        if type(ids) is not list:
            raise wrong_input(f"position {position} is not a list of token ids like the first one", code="invalid_type")
        if not ids:
            raise wrong_input(f"the token ids at position {position} are empty")
        if set(map(type, ids)) != {int}:
            raise wrong_input(f"the token ids at position {position} are not all integers", code="invalid_type")
        if len(ids) > max_ids or min(ids) < 0 or max(ids) > MAX_TOKEN_ID:
            raise wrong_input(f"the token ids at position {position} are out of range")
    return values


_PLACE = re.compile(r": line \d+ column \d+ \(char \d+\)$")


def _reason(error: orjson.JSONDecodeError) -> str:
    return f"{_PLACE.sub('', str(error))} at character {error.pos}"


# Answers


def write_embeddings(model: str, answer: Answer, encoding_format: Literal["float", "base64"] | None) -> bytes:
    """The answer's body, straight from the array: no float becomes a Python object."""
    # orjson reads the memory as it lies; an array cut out of a message may not lie on a float's boundary.
    vectors = np.require(answer.vectors, np.float32, ["C", "A"])
    embeddings: Iterable[Any] = vectors
    if encoding_format == "base64":
        embeddings = (base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode() for vector in vectors)
    tokens = sum(answer.tokens)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    if answer.truncated:
        usage["truncated"] = len(answer.truncated)
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": embedding} for index, embedding in enumerate(embeddings)
            ],
            "model": model,
            "usage": usage,
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


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
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.reason}}
