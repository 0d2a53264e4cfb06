"""A record of an input, what is wrong with one, and what is wrong with an input as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import orjson

from shared.errors import BadRequest
from shared.jobs.job import Job

MAX_ID_CHARACTERS = 512
MAX_METADATA_BYTES = 16 * 1024


class Record(NamedTuple):
    """One row of a job's input; with an `error` (JSON) it has no text and becomes an error row."""

    line: int | None  # from 1, in an input that has lines
    id: str | None
    text: str | None
    metadata: str | None  # JSON
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How an input is read. A column that is None is the usual one: `text`, and `id` if there is such a column."""

    max_text_bytes: int
    max_bytes: int | None = None  # of the whole input, unpacked
    text_column: str | None = None
    id_column: str | None = None
    metadata_columns: Sequence[str] | None = None  # None: all the others
    delimiter: str | None = None  # of csv; None: whichever the header has
    job: Job | None = None  # the job that it is read for, once there is one: a batch checks its lines against it


# What makes records of an input's blocks, unpacked already. Raises UnreadableInput for an input that is no such thing as a
# whole, at its first record or later; whatever the blocks raise passes through.
Parse = Callable[[Iterable[bytes], Options], Iterator[Record]]


class UnreadableInput(BadRequest):
    """An input as a whole cannot be used: a request is refused with it, a job that reads a source fails with it."""

    code: ClassVar[str] = "unreadable_input"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        line: int | None = None,
        param: str | None = None,
        errors: Sequence[Mapping[str, str | int | None]] = (),
    ) -> None:
        """`errors`, each {code, message, line, param}, where there is more to say than one sentence."""
        super().__init__(message, param=param, code=code)
        self.errors: tuple[dict[str, str | int | None], ...] = tuple(map(dict, errors)) or (
            {"code": self.reason, "message": message, "line": line, "param": param},
        )


class BadRecord(Exception):
    """One record is wrong; caught where it is made, and becomes an error row."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.json = orjson.dumps({"code": code, "message": message, "param": param}).decode()


def bad(line: int | None, code: str, message: str, param: str | None = None, *, record_id: str | None = None) -> Record:
    """An error row."""
    return Record(line, record_id, None, None, BadRecord(code, message, param).json)


def from_list(values: Iterable[Any], max_text_bytes: int) -> Iterator[Record]:
    """A record for each entry of a JSON list: a text, or an object {id, text, metadata}."""
    for value in values:
        if type(value) is str:
            value = {"text": value}
        if type(value) is not dict:
            yield bad(None, "invalid_type", "an entry must be a string or an object with a text", "input")
        else:
            yield from_object(value, None, max_text_bytes + 1, max_text_bytes)


def from_object(value: dict[str, Any], line: int | None, at_most_bytes: int, max_text_bytes: int) -> Record:
    """The record of {id, text, metadata}. `at_most_bytes`: what the text cannot be longer than, since its line is not."""
    record_id = None
    try:
        record_id = checked_id(value.get("id"))
        text = value.get("text")
        if type(text) is not str:
            if text is None:
                raise BadRecord("missing_required_parameter", "there is no text", "text")
            raise BadRecord("invalid_type", "the text is not a string", "text")
        if not text:
            raise BadRecord("invalid_value", "the text is empty", "text")
        if at_most_bytes > max_text_bytes and utf8_bytes(text) > max_text_bytes:
            raise too_long(max_text_bytes)
        metadata = value.get("metadata")
        return Record(line, record_id, text, None if metadata is None else metadata_json(metadata), None)
    except BadRecord as wrong:
        return Record(line, record_id, None, None, wrong.json)


def checked_id(value: Any) -> str | None:
    """An id: a string, or an integer as one. Raises BadRecord."""
    if value is None or (type(value) is str and len(value) <= MAX_ID_CHARACTERS):
        return value
    if type(value) is int:
        return str(value)
    if type(value) is str:
        raise BadRecord("invalid_value", f"the id is over {MAX_ID_CHARACTERS} characters", "id")
    raise BadRecord("invalid_type", "the id is neither a string nor an integer", "id")


def metadata_json(value: Any) -> str:
    """Metadata as it is kept. Raises BadRecord unless it is a small enough object."""
    if type(value) is not dict:
        raise BadRecord("invalid_type", "the metadata is not an object", "metadata")
    try:
        text = orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise BadRecord("invalid_value", "the metadata is nested too deep", "metadata") from None
    if len(text) > MAX_METADATA_BYTES:
        raise BadRecord("invalid_value", f"the metadata is over {MAX_METADATA_BYTES} bytes", "metadata")
    return text.decode()


def too_long(max_text_bytes: int) -> BadRecord:
    """A text is longer than the operator allows."""
    return BadRecord("text_too_long", f"the text is over {max_text_bytes} bytes", "text")


def utf8_bytes(text: str) -> int:
    """Length in UTF-8; nothing is encoded for plain ASCII."""
    return len(text) if text.isascii() else len(text.encode())
