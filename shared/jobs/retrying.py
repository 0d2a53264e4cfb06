"""Retrying: the failed rows of a completed job once more, as further shards of the same job (a retry round).

Only rows that have a text: a line of the upload that was no record stays an error. Each keeps its index, line, id, text and
metadata. All rows that failed in one round are tried in the next, so only the shards of the last round are looked at, and of
those only the ones with failures. The shards written here are seen by nobody before the round is noted, and two who write
them at once write the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shared.errors import Conflict, NotFound, StorageAway
from shared.jobs.job import Job, Marks
from shared.jobs.reading import rounds_of
from shared.jobs.store import JobStore
from shared.logs import get_logger
from shared.records import INPUT_SCHEMA, ShardCounts, damage_told, read_table

logger = get_logger(__name__)

# Reading merges all rounds of a job side by side, an open file for each.
MAX_ROUNDS = 32
# Footers are read side by side: on an object store each is a round trip.
READERS = 16


@dataclass(frozen=True, slots=True)
class Retried:
    """Rows of one shard to try again, and which part of its rows they are."""

    rows: pa.Table
    share: float


def check(job: Job, marks: Marks) -> None:
    """Raises Conflict unless failed rows of the job may be tried again."""
    if job.kind == "batch":
        raise Conflict("it is a batch, whose output files are written; send the failed lines as a new batch")
    if marks.done is None:
        raise Conflict("the job is not finished; its failed rows can be retried when it is completed")
    if marks.done.status != "completed" or marks.cancelled_at is not None:
        raise Conflict(f"the job is {_end(marks)}; only the failed rows of a completed job can be retried")
    if marks.done.counts.failed == 0:
        raise Conflict("no row of the job failed; there is nothing to retry")
    if len(job.rounds) >= MAX_ROUNDS:
        raise Conflict(f"the failed rows were retried {MAX_ROUNDS} times; submit them as a new job")


def _end(marks: Marks) -> str:
    return "cancelled" if marks.done is None or marks.cancelled_at is not None else marks.done.status


def write_round(store: JobStore, job: Job) -> tuple[int, ...]:
    """Write the failed rows as input shards behind the job's own; rows of each. Raises NotFound, or StorageAway.

    The rows of about one shard are in memory.
    """
    shards = (rounds_of(job) or [range(job.base_shards)])[-1]
    written: list[int] = []
    for table in cut(retried for shard in _with_failures(store, job, shards) for retried in _failed_rows(store, job, shard)):
        store.put_input(job.id, len(job.shards) + len(written), table)
        written.append(len(table))
    return tuple(written)


def cut(found: Iterable[Retried]) -> Iterator[pa.Table]:
    """Shards of what failed, each about as much work as one that it comes from: shares of shards add up to at most one."""
    gathered: list[pa.Table] = []
    share = 0.0
    for retried in found:
        if gathered and share + retried.share > 1.0:
            yield pa.concat_tables(gathered)
            gathered, share = [], 0.0
        gathered.append(retried.rows)
        share += retried.share
    if gathered:
        yield pa.concat_tables(gathered)


def failed_rows(rows: pa.Table, outcome: pa.Table) -> pa.Table:
    """Input rows that have a text and whose outcome {index, error} is an error."""
    index = outcome["index"].filter(pc.is_valid(outcome["error"])).to_numpy()
    mask = np.isin(rows["index"].to_numpy(), index)
    has_text = pc.and_(pc.is_valid(rows["text"]), pc.is_null(rows["error"]))
    return rows.filter(pc.and_(pa.chunked_array([pa.array(mask)]), has_text))


def _failed_rows(store: JobStore, job: Job, shard: int) -> Iterator[Retried]:
    try:
        with store.open_output(job.id, shard) as source, damage_told():
            outcome = pq.read_table(source, columns=["index", "error"])
        with store.open_input(job.id, shard) as source:
            rows = read_table(source).select(INPUT_SCHEMA.names)
    except FileNotFoundError:
        raise NotFound(f"no such job: {job.id}") from None
    except pa.ArrowInvalid:
        # Its rows failed because of that, and can only fail again.
        logger.error("shard not readable", job=job.id, shard=shard)
        return
    failed = failed_rows(rows, outcome)
    if len(failed):
        yield Retried(failed, len(failed) / len(rows))


def _with_failures(store: JobStore, job: Job, shards: range) -> Iterator[int]:
    """The shards with an error row, in order; only footers are read."""

    def counts(shard: int) -> ShardCounts | None:
        return store.counts(job.id, shard)

    with ThreadPoolExecutor(READERS, thread_name_prefix="footers") as pool:
        for shard, found in zip(shards, pool.map(counts, shards), strict=True):
            if found is None:
                raise StorageAway("a part of the job's output is missing in storage", retry_after_s=10)
            if found.failed:
                yield shard
