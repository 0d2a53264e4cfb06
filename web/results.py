"""A job's committed rows as a file: FORMATS names the writers, each of which streams shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shared.errors import InvalidParameter, NotFound, StorageAway
from shared.jobs.job import JobView
from shared.jobs.store import JobStore
from shared.logs import get_logger

logger = get_logger(__name__)

# Rows decoded at once: some megabytes, however wide the vectors.
BATCH_ROWS = 2048
# A row group of a Parquet answer holds about so many bytes of vectors.
ROW_GROUP_BYTES = 16 * 2**20
# JSONL leaves in pieces of about this size.
PIECE_BYTES = 256 * 1024

Batches = Iterator[pa.RecordBatch]


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of result file; `write` turns batches in the output's schema into the bytes of one file."""

    media_type: str
    extension: str
    write: Callable[[Batches], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Extent:
    """How far results go: the shards to read, and what a client needs to come back for the rest."""

    shards: tuple[int, ...]
    after: int  # rows up to this index are left out; -1: none
    rows: int
    next_after: int  # index of the last row
    is_complete: bool  # nothing will come after it


def extent(view: JobView, committed: Iterable[int], after: int = -1) -> Extent:
    """The rows past `after` that can be read now, in order.

    While the job runs that is the committed prefix. Once it is done it is whatever was committed: a cancelled job has gaps.
    """
    there = set(committed)
    is_done = view.marks.done is not None
    shards: list[int] = []
    rows = 0
    start = 0
    last = after
    covered = 0
    for shard, length in enumerate(view.job.shards):
        end = start + length
        if shard in there:
            covered += 1
            if end - 1 > after:
                shards.append(shard)
                rows += end - max(start, after + 1)
                last = end - 1
        elif not is_done:
            break
        start = end
    return Extent(tuple(shards), after, rows, last, is_done or covered == len(view.job.shards))


def read_batches(store: JobStore, job_id: str, wanted: Extent) -> Batches:
    """The rows of the extent, some at a time. Raises NotFound if the job is deleted meanwhile, or StorageAway."""
    for shard in wanted.shards:
        for batch in _read_shard(store, job_id, shard):
            yield _past(batch, wanted.after)


def read_errors(store: JobStore, view: JobView, wanted: Extent) -> Batches:
    """The error rows of the extent; no vector is read, and no shard that is known to have none."""
    for shard in wanted.shards:
        counts = view.committed.get(shard)
        if counts is not None and counts.failed == 0:
            continue
        for batch in _read_shard(store, view.job.id, shard, ["index", "line", "id", "metadata", "error"]):
            yield _past(batch.filter(pc.is_valid(batch["error"])), wanted.after)


def _read_shard(store: JobStore, job_id: str, shard: int, columns: list[str] | None = None) -> Batches:
    try:
        with store.open_output(job_id, shard) as source:
            yield from pq.ParquetFile(source).iter_batches(BATCH_ROWS, columns=columns)
    except FileNotFoundError:
        raise NotFound("no such job") from None
    except pa.ArrowInvalid:
        logger.error("damaged output found", job=job_id, shard=shard)
        raise StorageAway("a part of the results is damaged in storage", retry_after_s=10) from None


def _past(batch: pa.RecordBatch, after: int) -> pa.RecordBatch:
    if not batch.num_rows or batch["index"][0].as_py() > after:
        return batch
    return batch.filter(pc.greater(batch["index"], after))


# JSONL


def write_jsonl(batches: Batches) -> Iterator[bytes]:
    """A line a row: {id, index, embedding, tokens, truncated} or {id, index, line, error}, and its metadata if it has any."""
    piece: list[bytes] = []
    size = 0
    for batch in batches:
        for line in _lines(batch):
            piece.append(line)
            size += len(line)
            if size >= PIECE_BYTES:
                yield b"".join(piece)
                piece, size = [], 0
    if piece:
        yield b"".join(piece)


def _lines(batch: pa.RecordBatch) -> Iterator[bytes]:
    columns = {name: batch[name].to_pylist() for name in batch.schema.names if name != "vector"}
    vectors = _vectors(batch)
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    for i in range(batch.num_rows):
        row: dict[str, Any] = {"id": columns["id"][i], "index": columns["index"][i]}
        error = columns["error"][i]
        if error is None:
            row["embedding"] = next(vectors)
            row["tokens"] = columns["tokens"][i]
            row["truncated"] = columns["truncated"][i]
        else:
            row["line"] = columns["line"][i]
            row["error"] = orjson.Fragment(error)
        if columns["metadata"][i] is not None:
            row["metadata"] = orjson.Fragment(columns["metadata"][i])  # as the caller wrote it
        yield orjson.dumps(row, option=option)


def _vectors(batch: pa.RecordBatch) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
    """The vectors of the rows that have one, in order, without copying them."""
    if "vector" not in batch.schema.names:
        return iter(())
    column = batch["vector"].filter(pc.is_null(batch["error"]))
    if not len(column):
        return iter(())
    matrix = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return iter(np.ascontiguousarray(matrix, dtype=np.float32))


# Parquet

RESULT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32())),
        pa.field("tokens", pa.int32()),
        pa.field("truncated", pa.bool_()),
        pa.field("metadata", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("error", pa.string()),
    ]
)


class _Outbox:
    """A sink for pyarrow whose bytes are taken out as they come."""

    def __init__(self) -> None:
        self._written: list[bytes] = []
        self._position = 0
        self.closed = False

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._written.append(content)
        self._position += len(content)
        return len(content)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        taken = b"".join(self._written)
        self._written.clear()
        return taken


def write_parquet(batches: Batches) -> Iterator[bytes]:
    """One Parquet file, a row group at a time; valid also when there is no row."""
    outbox = _Outbox()
    sink = pa.PythonFile(outbox, mode="w")
    # Vectors: no dictionary and no statistics, which cost time and say nothing.
    with pq.ParquetWriter(sink, RESULT_SCHEMA, compression="zstd", compression_level=1, use_dictionary=False) as writer:
        group: list[pa.RecordBatch] = []
        size = 0
        for batch in batches:
            group.append(_renamed(batch))
            size += batch.nbytes
            if size >= ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(group), row_group_size=sum(len(part) for part in group))
                yield outbox.take()
                group, size = [], 0
        if group:
            writer.write_table(pa.Table.from_batches(group), row_group_size=max(1, sum(len(part) for part in group)))
    yield outbox.take()


def _renamed(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = {name: batch[name] for name in batch.schema.names}
    columns["embedding"] = columns.pop("vector")
    return pa.RecordBatch.from_arrays([columns[name] for name in RESULT_SCHEMA.names], schema=RESULT_SCHEMA)


# The table: a new format is a writer and a line here.
FORMATS: dict[str, Format] = {
    "jsonl": Format("application/x-ndjson", "jsonl", write_jsonl),
    "parquet": Format("application/vnd.apache.parquet", "parquet", write_parquet),
}
_ACCEPTED = {
    "application/jsonl": "jsonl",
    "application/ndjson": "jsonl",
    "application/parquet": "parquet",
    "application/x-parquet": "parquet",
} | {format.media_type: name for name, format in FORMATS.items()}


def choose_format(name: str | None, accepted: Iterable[str]) -> Format:
    """The format of this name, else the first that the Accept header names, else JSONL. Raises InvalidParameter."""
    if name is None:
        name = next((_ACCEPTED[media_type] for media_type in accepted if media_type in _ACCEPTED), "jsonl")
    if name not in FORMATS:
        raise InvalidParameter(f"format: must be one of {', '.join(sorted(FORMATS))}", param="format")
    return FORMATS[name]


def open_first(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces, the first of them made already: what goes wrong with it is an error, not a broken download."""
    first = next(pieces, b"")

    def all_pieces() -> Iterator[bytes]:
        yield first
        yield from pieces

    return all_pieces()
