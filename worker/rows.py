"""The rows of a shard around the engine: which of its input go in, and the output rows, counts and errors that come out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from shared import records
from shared.errors import UmekomiError, to_wire
from shared.intake.batch import count_requests
from shared.jobs.job import Job
from shared.records import ShardCounts
from worker.engine import Embedded

# In the metadata of a span's table: its rows whose vector was not made for them.
_DEDUPLICATED = b"umekomi.deduplicated"


@dataclass(frozen=True, slots=True)
class RowsToEmbed:
    """Input rows of a span and what the engine is to be asked about them."""

    table: pa.Table
    positions: list[int] = field(default_factory=list)  # rows that are no errors already
    texts: list[str] = field(default_factory=list)


def unreadable_rows(job: Job, shard: int) -> pa.Table:
    """Rows of a shard of which only the number is known; none of a retry, whose rows then stay the failures they were."""
    if shard >= job.base_shards:
        return records.INPUT_SCHEMA.empty_table()
    first = sum(job.shards[:shard])
    columns = {"index": pa.array(range(first, first + job.shards[shard]), pa.int64())}
    nulls = {field.name: pa.nulls(job.shards[shard], field.type) for field in records.INPUT_SCHEMA if field.name != "index"}
    return pa.table(columns | nulls, schema=records.INPUT_SCHEMA)


def rows_to_embed(table: pa.Table) -> RowsToEmbed:
    """The rows that are no errors already."""
    mask = pc.is_null(table["error"])
    positions = np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()
    return RowsToEmbed(table, positions, table["text"].filter(mask).to_pylist())


def to_output(table: pa.Table, embedded: Embedded | None, positions: list[int], error: UmekomiError | None) -> pa.Table:
    """Output rows of input rows: `embedded` belongs to those at `positions`; `error` is what the others of them get."""
    rows = len(table)
    dimensions = embedded.vectors.shape[1] if embedded is not None else 1
    vectors = np.zeros((rows, dimensions), dtype=np.float32)
    tokens = np.zeros(rows, dtype=np.int32)
    truncated = np.zeros(rows, dtype=bool)
    errors: list[str | None] = table["error"].to_pylist()
    if embedded is not None:
        vectors[positions] = embedded.vectors
        tokens[positions] = embedded.tokens
        truncated[positions] = embedded.truncated
        for position, wrong in embedded.errors.items():
            errors[positions[position]] = error_json(wrong)
    if error is not None:
        errors = [error_json(error) if wrong is None else wrong for wrong in errors]
    failed = np.array([wrong is not None for wrong in errors], dtype=bool)
    offsets = pa.array(np.arange(0, (rows + 1) * dimensions, dimensions, dtype=np.int32))
    column = pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)), mask=pa.array(failed))
    return pa.table(
        {
            "index": table["index"],
            "line": table["line"],
            "id": table["id"],
            "vector": column,
            "tokens": pa.array(tokens),
            "truncated": pa.array(truncated & ~failed),
            "metadata": table["metadata"],
            "error": pa.array(errors, pa.string()),
        },
        schema=records.OUTPUT_SCHEMA,
    )


def error_json(error: UmekomiError) -> str:
    """What an error row says: {code, message, param}."""
    wire = to_wire(error)
    return orjson.dumps({"code": wire["reason"], "message": wire["message"], "param": wire["param"]}).decode()


def count(job: Job, table: pa.Table, started_at: float) -> ShardCounts:
    """What these output rows add to their job; `started_at` in unix seconds."""
    failed = len(table) - table["error"].null_count
    requests, failed_requests = count_requests(table) if job.kind == "batch" else (0, 0)
    sum_of: Callable[[str], int] = lambda column: int(pc.sum(table[column]).as_py() or 0)  # noqa: E731
    return ShardCounts(
        rows=len(table),
        failed=failed,
        truncated=sum_of("truncated"),
        tokens=sum_of("tokens"),
        started_at=started_at,
        finished_at=time.time(),
        requests=requests,
        failed_requests=failed_requests,
        deduplicated=deduplicated(table),
    )


def with_deduplicated(table: pa.Table, rows: int) -> pa.Table:
    """The table, noting that so many of its rows took the vector of an equal text."""
    return table.replace_schema_metadata({_DEDUPLICATED: str(rows)})


def deduplicated(table: pa.Table) -> int:
    """What `with_deduplicated` noted."""
    return int((table.schema.metadata or {}).get(_DEDUPLICATED, 0))
