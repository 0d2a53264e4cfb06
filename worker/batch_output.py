"""The lines of a batch's output and error files: rows gathered into requests again, and what became of each request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from shared.intake.batch import Place
from shared.models import ModelConfig
from shared.openai import Vectors, cut, embeddings_object, error_body

# What is our fault, or the model's; anything else is wrong with the request.
SERVER_ERRORS = frozenset({"engine_failed", "internal_error", "input_damaged"})
# Why a request was not run, by the end of its batch.
NOT_RUN = {
    "expired": ("batch_expired", "the batch expired before this request was run"),
    "cancelled": ("batch_cancelled", "the batch was cancelled before this request was run"),
    "completed": ("internal_error", "this request was not run"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One input of a request: its vector, or why it has none; neither if it was not run."""

    index: int
    line: int | None
    custom_id: str | None
    place: Place
    vector: Vectors | None = None
    tokens: int = 0
    is_truncated: bool = False
    error: dict[str, Any] | None = None  # {code, message, param}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the output file, or of the error file."""

    is_error: bool
    content: bytes
    tokens: int = 0
    truncated: int = 0  # inputs


def gather(tables: Iterable[pa.Table]) -> Iterator[list[Row]]:
    """The rows of each request, in order. Tables come as shards do, in the schema of outputs, or of inputs that were not run."""
    rows = (row for table in tables for row in _rows(table))
    for _, of_line in groupby(rows, lambda row: row.line if row.line is not None else f"row {row.index}"):
        yield list(of_line)


def _rows(table: pa.Table) -> Iterator[Row]:
    columns = {name: table[name].to_pylist() for name in table.schema.names if name != "vector"}
    has_run = "vector" in table.schema.names
    vectors = _vectors(table) if has_run else iter(())
    for number in range(len(table)):
        error = columns["error"][number]
        is_embedded = has_run and error is None
        yield Row(
            index=columns["index"][number],
            line=columns["line"][number],
            custom_id=columns["id"][number],
            place=Place.from_json(columns["metadata"][number]),
            vector=next(vectors) if is_embedded else None,
            tokens=columns["tokens"][number] if is_embedded else 0,
            is_truncated=bool(columns["truncated"][number]) if is_embedded else False,
            error=None if error is None else orjson.loads(error),
        )


def _vectors(table: pa.Table) -> Iterator[Vectors]:
    """Of the rows that have one, in order, without copying them."""
    column = table["vector"].filter(pc.is_null(table["error"])).combine_chunks()
    if not len(column):
        return iter(())
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return iter(np.ascontiguousarray(flat, dtype=np.float32).reshape(len(column), -1))


def answer(rows: list[Row], job_id: str, model: ModelConfig, end: str) -> Line:
    """What became of a request; `end` is its batch's. The same rows give the same bytes."""
    digest = hashlib.sha256(f"{job_id}/{rows[0].index}".encode()).hexdigest()
    line: dict[str, Any] = {"id": f"batch_req_{digest[:32]}", "custom_id": rows[0].custom_id, "response": None, "error": None}
    wrong = next((row.error for row in rows if row.error is not None), None) or _wrong_dimensions(rows, model)
    if wrong is not None:
        code = str(wrong["code"])
        status = 500 if code in SERVER_ERRORS else 400
        line["response"] = _response(status, digest, error_body(str(wrong["message"]), code, wrong.get("param"), status))
        return Line(True, _dump(line))
    vectors = [row.vector for row in rows if row.vector is not None]
    if len(vectors) < rows[0].place.of:
        code, message = NOT_RUN[end]
        line["error"] = {"code": code, "message": message}
        return Line(True, _dump(line))
    dimensions = rows[0].place.dimensions or model.dimensions or len(vectors[0])
    tokens, truncated = sum(row.tokens for row in rows), sum(row.is_truncated for row in rows)
    body = embeddings_object(
        model.name, [cut(vector, dimensions) for vector in vectors], tokens, truncated, rows[0].place.encoding_format
    )
    line["response"] = _response(200, digest, body)
    return Line(False, _dump(line), tokens, truncated)


def _wrong_dimensions(rows: list[Row], model: ModelConfig) -> dict[str, Any] | None:
    wanted = rows[0].place.dimensions
    native = next((len(row.vector) for row in rows if row.vector is not None), None)
    if wanted is None or native is None or wanted <= native:
        return None
    message = f"dimensions must be from 1 to {native}, the size of the vectors of {model.name!r}"
    return {"code": "invalid_value", "message": message, "param": "dimensions"}


def _response(status: int, digest: str, body: Mapping[str, object]) -> dict[str, Any]:
    return {"status_code": status, "request_id": f"req_{digest[32:]}", "body": body}


def _dump(line: dict[str, Any]) -> bytes:
    return orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
