"""Inputs of every format, with the same rows in them."""

from __future__ import annotations

import csv
import gzip
import io
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from shared.intake import FORMATS, Options, Record

Row = dict[str, Any]


def ndjson(rows: list[Row]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def separated(rows: list[Row], delimiter: str = ",") -> bytes:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()


def text(rows: list[Row]) -> bytes:
    return "".join(f"{row['text']}\n" for row in rows).encode()


def parquet(rows: list[Row] | dict[str, Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    table = pa.table(rows) if isinstance(rows, dict) else pa.Table.from_pylist(rows)
    pq.write_table(table, sink, **options)
    return sink.getvalue()


WRITERS = {"ndjson": ndjson, "csv": separated, "text": text, "parquet": parquet}


def pack(body: bytes, compression: str | None) -> bytes:
    if compression == "gzip":
        return gzip.compress(body)
    return zstandard.ZstdCompressor().compress(body) if compression == "zstd" else body


def parse(name: str, body: bytes, *, block_bytes: int = 1 << 20, **options: Any) -> list[Record]:
    blocks = [body[start : start + block_bytes] for start in range(0, len(body), block_bytes)]
    return list(FORMATS[name].parse(blocks, Options(**{"max_text_bytes": 1000} | options)))


def code(record: Record) -> str | None:
    return None if record.error is None else orjson.loads(record.error)["code"]
