"""An upload as a stream of records, and records as the shards of a job; never more than one shard in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from shared.records import INPUT_SCHEMA

MAX_ID_CHARACTERS = 512
MAX_METADATA_BYTES = 16 * 1024
# A JSON escape makes at most 6 bytes of one; beside the text a line holds an id and metadata.
_ESCAPE_BYTES = 6
_LINE_EXTRA_BYTES = 64 * 1024
# Text of one shard: what a worker and the parquet writer hold in memory at once.
MAX_SHARD_BYTES = 32 * 2**20
# A text of so many UTF-8 bytes counts as one token, and every row as two more.
BYTES_PER_TOKEN = 4
TOKENS_PER_ROW = 2
# The first shards are small, so that results and a rate appear early.
FIRST_SHARES = (0.25, 0.5)
# From this shard on they grow with their number: a corpus of any size stays in some ten thousand files.
GROWS_FROM_SHARD = 1000


class Record(NamedTuple):
    """One row of a job's input; with an `error` (JSON) it has no text and becomes an error row."""

    line: int | None  # from 1, in an upload that has lines
    id: str | None
    text: str | None
    metadata: str | None  # JSON
    error: str | None


class _BadRecord(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.json = orjson.dumps({"code": code, "message": message, "param": param}).decode()


def from_ndjson(blocks: Iterable[bytes], max_text_bytes: int) -> Iterator[Record]:
    """A record for each line that is not blank; one that cannot be read becomes an error row."""
    number = 0
    loads = orjson.loads
    for line in _lines(blocks, max_text_bytes * _ESCAPE_BYTES + _LINE_EXTRA_BYTES):
        number += 1
        if line is _OVERLONG:
            yield Record(number, None, None, None, _too_long(max_text_bytes).json)
            continue
        if not line or line.isspace():
            continue
        try:
            value = loads(line)
        except orjson.JSONDecodeError:
            error = _BadRecord("invalid_json_line", "the line is not valid JSON in UTF-8")
            yield Record(number, None, None, None, error.json)
            continue
        if type(value) is not dict:
            error = _BadRecord("invalid_json_line", "the line is not a JSON object")
            yield Record(number, None, None, None, error.json)
            continue
        yield _record(value, number, len(line), max_text_bytes)


def from_list(values: Iterable[Any], max_text_bytes: int) -> Iterator[Record]:
    """A record for each entry of a JSON list: a text, or an object like a line of NDJSON."""
    for value in values:
        if type(value) is str:
            value = {"text": value}
        if type(value) is not dict:
            error = _BadRecord("invalid_type", "an entry must be a string or an object with a text", "input")
            yield Record(None, None, None, None, error.json)
        else:
            yield _record(value, None, max_text_bytes + 1, max_text_bytes)


def _record(value: dict[str, Any], line: int | None, at_most_bytes: int, max_text_bytes: int) -> Record:
    """`at_most_bytes`: what the text cannot be longer than, since its line is not."""
    record_id = None
    try:
        record_id = _id(value.get("id"))
        text = value.get("text")
        if type(text) is not str:
            if text is None:
                raise _BadRecord("missing_required_parameter", "there is no text", "text")
            raise _BadRecord("invalid_type", "the text is not a string", "text")
        if not text:
            raise _BadRecord("invalid_value", "the text is empty", "text")
        if at_most_bytes > max_text_bytes and utf8_bytes(text) > max_text_bytes:
            raise _too_long(max_text_bytes)
        metadata = value.get("metadata")
        return Record(line, record_id, text, None if metadata is None else _metadata(metadata), None)
    except _BadRecord as bad:
        return Record(line, record_id, None, None, bad.json)


def _id(value: Any) -> str | None:
    if value is None or (type(value) is str and len(value) <= MAX_ID_CHARACTERS):
        return value
    if type(value) is int:
        return str(value)
    if type(value) is str:
        raise _BadRecord("invalid_value", f"the id is over {MAX_ID_CHARACTERS} characters", "id")
    raise _BadRecord("invalid_type", "the id is neither a string nor an integer", "id")


def _metadata(value: Any) -> str:
    if type(value) is not dict:
        raise _BadRecord("invalid_type", "the metadata is not an object", "metadata")
    try:
        text = orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise _BadRecord("invalid_value", "the metadata is nested too deep", "metadata") from None
    if len(text) > MAX_METADATA_BYTES:
        raise _BadRecord("invalid_value", f"the metadata is over {MAX_METADATA_BYTES} bytes", "metadata")
    return text.decode()


def _too_long(max_text_bytes: int) -> _BadRecord:
    return _BadRecord("text_too_long", f"the text is over {max_text_bytes} bytes", "text")


def utf8_bytes(text: str) -> int:
    """Length in UTF-8; nothing is encoded for plain ASCII."""
    return len(text) if text.isascii() else len(text.encode())


_OVERLONG = b"\n"  # no line contains its own end


def _lines(blocks: Iterable[bytes], max_line_bytes: int) -> Iterator[bytes]:
    """The lines of a stream; of one that is too long nothing is kept, and _OVERLONG stands in its place."""
    rest = b""
    is_first = True
    skipping = False
    for block in blocks:
        if skipping:
            end = block.find(b"\n")
            if end < 0:
                continue
            block = block[end + 1 :]
            skipping = False
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if is_first:
                line = line.removeprefix(b"\xef\xbb\xbf")
                is_first = False
            yield line if len(line) <= max_line_bytes else _OVERLONG
        if len(rest) > max_line_bytes:
            yield _OVERLONG
            rest = b""
            skipping = True
            is_first = False
    if rest:
        yield rest.removeprefix(b"\xef\xbb\xbf") if is_first else rest


class ShardCutter:
    """Cuts records into shards of about `shard_tokens` tokens and hands each to `put(number, table)`."""

    def __init__(self, put: Callable[[int, pa.Table], None], *, shard_tokens: float, max_rows: int) -> None:
        self._put = put
        self._shard_tokens = shard_tokens
        self._max_rows = max_rows
        self.shards: list[int] = []  # rows of each one that was put

    def cut(self, records: Iterable[Record]) -> None:
        """Put every record into a shard. Raises whatever `put` or the records do."""
        first = 0
        rows: list[Record] = []
        text_bytes = 0
        max_tokens = self._max_tokens()
        for record in records:
            rows.append(record)
            if record.text is not None:
                text_bytes += utf8_bytes(record.text)
            if record.metadata is not None:
                text_bytes += len(record.metadata)
            tokens = text_bytes / BYTES_PER_TOKEN + TOKENS_PER_ROW * len(rows)
            if tokens >= max_tokens or len(rows) >= self._max_rows or text_bytes >= MAX_SHARD_BYTES:
                self._flush(first, rows)
                first += len(rows)
                rows = []
                text_bytes = 0
                max_tokens = self._max_tokens()
        if rows:
            self._flush(first, rows)

    def _max_tokens(self) -> float:
        number = len(self.shards)
        if number < len(FIRST_SHARES):
            return self._shard_tokens * FIRST_SHARES[number]
        return self._shard_tokens * max(1.0, number / GROWS_FROM_SHARD)

    def _flush(self, first: int, rows: list[Record]) -> None:
        columns = zip(*rows, strict=True)
        index = pa.array(np.arange(first, first + len(rows)))
        arrays = [pa.array(column, field.type) for column, field in zip(columns, list(INPUT_SCHEMA)[1:], strict=True)]
        self._put(len(self.shards), pa.Table.from_arrays([index, *arrays], schema=INPUT_SCHEMA))
        self.shards.append(len(rows))
