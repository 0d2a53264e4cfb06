"""umekomi's own wire format of jobs: the parameters of a submission and of a look. The job object is shared.jobs.wire's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from shared.errors import InvalidParameter, NotFound
from shared.intake.reading import known_formats
from shared.intake.records import MAX_ID_CHARACTERS
from shared.jobs.job import JobParameters, Priority, Status
from shared.prompts import GivenInputType
from web import openai
from web.openapi.operations import Parameter

MAX_IDEMPOTENCY_KEY_CHARACTERS = 255
MAX_COLUMN_CHARACTERS = 512
# A parameter that is so much like a known one is taken for a slip; anything else unknown is passed over.
_SLIP = 0.75
_JOB_ID = re.compile(r"job_[0-9a-f]{36}")
KnownStatus = Literal["validating", "queued", "in_progress", "paused", "completed", "failed", "cancelled"]  # of a job
_STATUSES: tuple[Status, ...] = get_args(KnownStatus)


def _few_pairs(metadata: dict[str, str] | None) -> dict[str, str] | None:
    """OpenAI's limits."""
    if metadata is not None:
        if len(metadata) > 16:
            raise ValueError("at most 16 pairs")
        if any(len(key) > 64 or len(value) > 512 for key, value in metadata.items()):
            raise ValueError("a key has at most 64 characters and a value at most 512")
    return metadata


def _known_format(name: str | None) -> str | None:
    if name is not None and name not in known_formats():
        raise ValueError(f"must be one of {', '.join(known_formats())}")
    return name


def _one_character(delimiter: str | None) -> str | None:
    if delimiter is None:
        return None
    delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter.isalnum() or delimiter in '\r\n"\0 ':
        raise ValueError("must be one character such as , or ; or |, or `tab`")
    return delimiter


Metadata = Annotated[dict[str, str] | None, AfterValidator(_few_pairs)]


class JobFields(BaseModel):
    """The parameters of a submission; null means not given, unknown ones are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    model: str | None = None
    dimensions: int | None = Field(None, ge=1, le=2**31 - 1)
    input_type: GivenInputType = None
    prompt_name: str | None = Field(None, min_length=1, max_length=200)
    truncate: Literal["end", "error"] | None = None
    priority: Priority | None = None
    metadata: Metadata = None
    dedupe: bool | None = None
    cache: bool | None = None
    on_duplicate: Literal["error", "keep"] | None = None
    format: Annotated[str | None, AfterValidator(_known_format)] = None
    text_column: str | None = Field(None, min_length=1, max_length=MAX_COLUMN_CHARACTERS)
    id_column: str | None = Field(None, min_length=1, max_length=MAX_COLUMN_CHARACTERS)
    metadata_columns: list[Annotated[str, Field(min_length=1, max_length=MAX_COLUMN_CHARACTERS)]] | None = None
    delimiter: Annotated[str | None, AfterValidator(_one_character)] = None
    webhook_url: str | None = Field(None, min_length=1, max_length=2048)

    @property
    def parameters(self) -> JobParameters:
        """Those that say how the texts are embedded."""
        return JobParameters.model_validate(self.model_dump(include=set(JobParameters.model_fields)))


# What the document shows beside the fields.

IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    Annotated[str, Field(min_length=1, max_length=MAX_IDEMPOTENCY_KEY_CHARACTERS)],
    "the same key with the same request gives the same object back",
)


class JobText(BaseModel):
    """A text with what is to come back beside its vector."""

    id: Annotated[str, Field(max_length=MAX_ID_CHARACTERS)] | int | None = None
    text: Annotated[str, Field(min_length=1)]
    metadata: dict[str, Any] | None = None


class JobBody(JobFields):
    """The parameters, and one of three inputs: texts, of which what is wrong becomes an error row; a file's id; a URL."""

    input: str | Annotated[list[str | JobText | Any], Field(min_length=1)] | None = None
    input_file_id: str | None = None
    input_url: Annotated[str | None, Field(description="under one of the roots that the operator allows")] = None


class JobForm(JobFields):
    """The parameters, and after them the input, whose name tells its format."""

    file: Annotated[bytes, WithJsonSchema({"type": "string", "format": "binary"})]


# Fields that a query string has as text.
FIELDS_AS_TEXT = {
    "metadata": Annotated[str, Field(description="a JSON object of strings")],
    "metadata_columns": Annotated[str, Field(description="names with commas between, or a JSON list")],
    "format": Annotated[str, WithJsonSchema({"enum": known_formats()})],
}


def read_job_fields(given: Mapping[str, Any]) -> JobFields:
    """The parameters in a JSON body. Raises InvalidParameter."""
    fields = openai.read_fields(JobFields, given)
    openai.check_prompt(fields.input_type, fields.prompt_name)
    return fields


def check_names(given: Iterable[str], *others: str) -> None:
    """Raises InvalidParameter for a parameter that is none, but close to one; `others` are known too."""
    known = (*JobFields.model_fields, *others)
    for name in given:
        near = get_close_matches(name, known, 1, _SLIP) if name not in known else []
        if near:
            message = f"{name[:64]}: there is no such parameter; did you mean {near[0]}?"
            raise InvalidParameter(message, param=name[:64], code="unknown_parameter")


def read_job_query(given: Mapping[str, str]) -> JobFields:
    """The parameters in a query string or form: numbers as digits, flags as true and false, metadata as a JSON object,
    columns with commas between.

    Raises InvalidParameter.
    """
    check_names(given)
    values: dict[str, Any] = {name: value for name, value in given.items() if value != ""}
    if "metadata_columns" in given:  # an empty one says: none
        values["metadata_columns"] = _read_list("metadata_columns", given["metadata_columns"])
    if "dimensions" in values:
        values["dimensions"] = read_number("dimensions", values["dimensions"])
    for name in ("dedupe", "cache"):
        if name in values:
            values[name] = read_flag(name, values[name])
    if "metadata" in values:
        try:
            values["metadata"] = orjson.loads(values["metadata"])
        except orjson.JSONDecodeError:
            raise InvalidParameter("metadata: must be a JSON object of strings", param="metadata") from None
    return read_job_fields(values)


def read_flag(param: str, text: str) -> bool:
    """true or false in a query string. Raises InvalidParameter."""
    if text not in ("true", "false"):
        raise InvalidParameter(f"{param}: must be true or false", param=param, code="invalid_type")
    return text == "true"


def _read_list(param: str, text: str) -> Any:
    if not text.startswith("["):
        return [each.strip() for each in text.split(",") if each.strip()]
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidParameter(f"{param}: must be names with commas between, or a JSON list", param=param) from None


def read_number(param: str, text: str) -> int:
    """A whole number in a query string. Raises InvalidParameter."""
    if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 18:
        raise InvalidParameter(f"{param}: must be a whole number", param=param, code="invalid_type")
    return int(text)


def read_limit(text: str | None, *, default: int, most: int) -> int:
    """How many entries of a list are wanted, in a query string. Raises InvalidParameter."""
    limit = read_number("limit", text or str(default))
    if not 1 <= limit <= most:
        raise InvalidParameter(f"limit: must be 1 to {most}", param="limit")
    return limit


def read_status(text: str | None) -> Status | None:
    """A status in a query string. Raises InvalidParameter."""
    if not text:
        return None
    found = next((status for status in _STATUSES if status == text), None)
    if found is None:
        raise InvalidParameter(f"status: must be one of {', '.join(_STATUSES)}", param="status")
    return found


def read_job_id(text: str) -> str:
    """An id from outside, before it comes near storage. Raises NotFound unless it looks like one of ours."""
    if not _JOB_ID.fullmatch(text):
        raise NotFound("no such job")
    return text


def read_idempotency_key(text: str | None) -> str | None:
    """The Idempotency-Key header. Raises InvalidParameter."""
    if text is None:
        return None
    if not 1 <= len(text) <= MAX_IDEMPOTENCY_KEY_CHARACTERS:
        raise InvalidParameter(f"Idempotency-Key: 1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} characters", param="Idempotency-Key")
    return text
