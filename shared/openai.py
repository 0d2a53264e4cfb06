"""OpenAI's embeddings request, answer and error: of the synchronous route, and of a batch's lines, which are such requests."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,  # pydantic's, before Python 3.12
    TypeVar,
)

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from shared.errors import BadRequest, InvalidParameter
from shared.prompts import GivenInputType

# Ids of any tokenizer fit in 31 bits; the model's own range is the worker's to check.
MAX_TOKEN_ID = 2**31 - 1

EncodingFormat = Literal["float", "base64"]
ErrorType = Literal["invalid_request_error", "rate_limit_error", "server_error", "requests", "tokens", "insufficient_quota"]
Vectors = np.ndarray[Any, np.dtype[np.float32]]
Input = TypeVar("Input", bound=BaseModel)


class EmbeddingsFields(BaseModel):
    """The fields of an embeddings request beside its input; null means not given, unknown ones are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    model: str | None = None
    dimensions: int | None = Field(None, ge=1, le=2**31 - 1)
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    input_type: GivenInputType = None
    prompt_name: str | None = Field(None, min_length=1, max_length=200)
    truncate: Literal["end", "error"] | None = None


TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]


# `check_prompt` as a schema: what must not be.
ONE_PROMPT: dict[str, Any] = {
    "required": ["input_type", "prompt_name"],
    "properties": {"input_type": {"type": "string"}, "prompt_name": {"type": "string"}},
}


class EmbeddingsBody(EmbeddingsFields):
    """A text, or texts, or token ids, or several lists of them. What the document shows; `read_embeddings` is what reads it."""

    model_config = ConfigDict(json_schema_extra={"not": ONE_PROMPT})

    input: Text | Annotated[list[Text], Field(min_length=1)] | TokenIds | Annotated[list[TokenIds], Field(min_length=1)]


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


def read_embeddings(given: Mapping[str, Any], *, max_inputs: int, max_text_bytes: int) -> EmbeddingsRequest:
    """The request in an object as POST /v1/embeddings takes it. Raises InvalidParameter."""
    fields = read_fields(EmbeddingsFields, given)
    check_prompt(fields.input_type, fields.prompt_name)
    return _read_input(given.get("input"), fields, max_inputs, max_text_bytes)


def read_fields(kind: type[Input], given: Mapping[str, Any]) -> Input:
    """The fields as their model has them. Raises InvalidParameter for the first that is wrong."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = str(wrong["loc"][0]) if wrong["loc"] else None
    code = "invalid_type" if wrong["type"].endswith("_type") else "invalid_value"
    if wrong["type"] == "missing":
        code = "missing_required_parameter"
    message = wrong["msg"].removeprefix("Value error, ")
    raise InvalidParameter(f"{param}: {message[0].lower()}{message[1:]}", param=param, code=code)


def check_prompt(input_type: str | None, prompt_name: str | None) -> None:
    """Raises InvalidParameter if both are given: each of them chooses the prompt."""
    if input_type is not None and prompt_name is not None:
        raise InvalidParameter("prompt_name: give either input_type or prompt_name, not both", param="prompt_name")


def wrong_input(message: str, *, code: str | None = None) -> InvalidParameter:
    """Something is wrong with `input`; the message never quotes it."""
    return InvalidParameter(f"input: {message}", param="input", code=code)


def _read_input(value: Any, fields: EmbeddingsFields, max_inputs: int, max_text_bytes: int) -> EmbeddingsRequest:
    if value is None:
        raise wrong_input("is required", code="missing_required_parameter")
    if type(value) is str:
        return EmbeddingsRequest(fields=fields, texts=_checked_texts([value], max_text_bytes))
    if type(value) is not list:
        raise wrong_input("must be a string, a list of strings, or token ids", code="invalid_type")
    if not value:
        raise wrong_input("must not be empty")
    first = type(value[0])
    if first is int:
        return EmbeddingsRequest(fields=fields, token_ids=_checked_ids([value], max_text_bytes))
    if len(value) > max_inputs:
        more = "submit more as a job: POST /v1/embeddings/jobs"
        raise wrong_input(f"at most {max_inputs} in one request, got {len(value)}; {more}")
    if first is list:
        return EmbeddingsRequest(fields=fields, token_ids=_checked_ids(value, max_text_bytes))
    return EmbeddingsRequest(fields=fields, texts=_checked_texts(value, max_text_bytes))


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


class EmbeddingObject(TypedDict):
    """A vector, and which input it is of; `embedding` is base64 of little-endian float32 if that was asked for."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(TypedDict):
    """Tokens of all inputs, special ones included, and how many inputs were cut to what the model reads."""

    prompt_tokens: int
    total_tokens: int
    truncated: NotRequired[int]


class EmbeddingsObject(TypedDict):
    """The answer to an embeddings request, in the order of the input."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: Usage


class ErrorObject(TypedDict):
    """What is wrong: a sentence, OpenAI's type, the parameter that is to blame, and a code for programs."""

    message: str
    type: ErrorType
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """The body of every error."""

    error: ErrorObject


def cut(vector: Vectors, dimensions: int) -> Vectors:
    """The first `dimensions` values of a vector, back at unit length if any were cut off: as OpenAI cuts."""
    if dimensions >= len(vector):
        return vector
    vector = vector[:dimensions]
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def embeddings_object(
    model: str, vectors: Iterable[Vectors], tokens: int, truncated: int, encoding_format: EncodingFormat | None
) -> dict[str, Any]:
    """The answer, for orjson with OPT_SERIALIZE_NUMPY: vectors as floats, or as base64 of little-endian float32.

    `tokens` are those of all inputs; `truncated` counts the inputs that were cut.
    """
    embeddings: Iterable[Any] = vectors
    if encoding_format == "base64":
        embeddings = (base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode() for vector in vectors)
    usage: Usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    if truncated:
        usage["truncated"] = truncated
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": embedding} for index, embedding in enumerate(embeddings)],
        "model": model,
        "usage": usage,
    }


def error_body(message: str, code: str, param: str | None, status: int, kind: ErrorType | None = None) -> ErrorBody:
    """{"error": {message, type, param, code}}; the type follows from the status unless it is given."""
    if kind is None:
        kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
