"""The rows of a shard: Arrow schemas of inputs and outputs, and their Parquet files.

An input row may already be an error (a bad line of the upload): it keeps its place and becomes an error row of the output.
The output's footer carries the shard's counts, so that progress can be rebuilt without reading rows.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

# `metadata` is JSON as the caller wrote it; `error` is JSON {code, message, param}; `line` counts from 1.
INPUT_SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("line", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("text", pa.string()),
        pa.field("metadata", pa.string()),
        pa.field("error", pa.string()),
    ]
)


# `vector` is null in an error row; every other one of a job has as many float32 values. A list of fixed size would need to
# know how many in a shard without a single vector.
OUTPUT_SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("line", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("vector", pa.list_(pa.float32())),
        pa.field("tokens", pa.int32()),
        pa.field("truncated", pa.bool_()),
        pa.field("metadata", pa.string()),
        pa.field("error", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCounts:
    """What one committed shard adds to its job."""

    rows: int  # all of them, failed ones too
    failed: int
    truncated: int
    tokens: int
    started_at: float  # unix seconds
    finished_at: float
    deduplicated: int = 0
    # Of a batch: the requests whose last row lies in the shard, and those of them that have an error row in it.
    requests: int = 0
    failed_requests: int = 0

    def to_json(self) -> bytes:
        """For Redis and for the footer."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, raw: bytes | str) -> ShardCounts:
        """What `to_json` wrote; fields of a newer version are passed over."""
        fields = orjson.loads(raw)
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__ if name in fields})


_COUNTS = b"umekomi.counts"


def write_table(table: pa.Table, sink: BinaryIO | None = None) -> bytes:
    """Parquet bytes of a shard (or written to the sink, and b"" returned); zstd, since vectors hardly compress."""
    buffer = sink or io.BytesIO()
    # Vectors: no dictionary and no statistics, which cost time and say nothing.
    pq.write_table(table, buffer, compression="zstd", compression_level=1, use_dictionary=False, write_statistics=False)
    return buffer.getvalue() if isinstance(buffer, io.BytesIO) and sink is None else b""


def write_output(table: pa.Table, counts: ShardCounts) -> bytes:
    """Parquet bytes of a committed shard, its counts in the footer."""
    return write_table(table.replace_schema_metadata({_COUNTS: counts.to_json()}))


def read_table(source: bytes | BinaryIO) -> pa.Table:
    """The rows of a shard. Raises pyarrow.ArrowInvalid if the file is damaged."""
    with damage_told():
        return pq.read_table(io.BytesIO(source) if isinstance(source, bytes) else source)


def read_counts(source: bytes | BinaryIO) -> ShardCounts:
    """The counts in the footer; only the footer is read. Raises pyarrow.ArrowInvalid if it is damaged."""
    with damage_told():
        metadata = pq.read_schema(io.BytesIO(source) if isinstance(source, bytes) else source).metadata or {}
        if _COUNTS not in metadata:
            raise pa.ArrowInvalid("no counts in the footer")
        return ShardCounts.from_json(metadata[_COUNTS])


@contextmanager
def damage_told() -> Iterator[None]:
    """pyarrow says of most damage that it is an OSError: told from a disk that fails by having no number."""
    try:
        yield
    except (OSError, TypeError, orjson.JSONDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise pa.ArrowInvalid(f"damaged: {error}") from error
