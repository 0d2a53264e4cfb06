"""Reading: the rows of a job in the order of its input, each as its last try left it, some at a time.

While a job runs that is the committed prefix: what can be read does not change any more, and a reader comes back for the
rest. Once it is done it is everything that was committed; a cancelled job has gaps.

A retry round holds rows of the input again, in order. So reading is a merge: the shards of the input, and over them the
shards of each round, all read side by side. Of each only a few rows are in memory, however large the job.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shared.errors import NotFound, StorageAway
from shared.jobs.job import Job, Marks
from shared.jobs.store import JobStore
from shared.logs import get_logger
from shared.records import ShardCounts, damage_told

logger = get_logger(__name__)

# Rows decoded at once: some megabytes, however wide the vectors.
BATCH_ROWS = 2048
# Read from storage at once, per column: vectors come in as they are wanted.
BUFFER_BYTES = 2**20
ERROR_COLUMNS = ("index", "line", "id", "metadata", "error")


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of a shard of the input, by their index."""

    shard: int
    shard_begin: int  # index of the shard's first row
    begin: int
    end: int  # index behind the last

    def __len__(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a job can be read."""

    spans: tuple[Span, ...]
    next_after: int  # index of the last row, to come back with; as it was given if there is none
    is_complete: bool  # nothing will come after it

    @property
    def rows(self) -> int:
        """All of them, error rows too."""
        return sum(map(len, self.spans))


def extent(
    job: Job, committed: Collection[int], *, is_final: bool, after: int = -1, before: int | None = None, limit: int | None = None
) -> Extent:
    """The rows with an index over `after` that can be read: the committed prefix, or all there are if `is_final`.

    Rows from the index `before` on are being tried again. At most `limit` rows.
    """
    spans: list[Span] = []
    left = limit
    is_cut = False
    begin = 0
    for shard, rows in enumerate(job.shards[: job.base_shards]):
        end = begin + rows
        if shard in committed:
            first, last = max(begin, after + 1), end if before is None else min(end, before)
            if left is not None and last - first > left:
                last, is_cut = first + left, True
            if last > first:
                spans.append(Span(shard, begin, first, last))
                left = None if left is None else left - (last - first)
            if is_cut or last < end:
                break
        elif not is_final:
            break
        begin = end
    is_whole = job.is_prepared and all(shard in committed for shard in range(len(job.shards)))
    return Extent(tuple(spans), spans[-1].end - 1 if spans else after, (is_final or is_whole) and not is_cut)


class Reading:
    """The rows of a job within an extent. Reading raises NotFound if the job is deleted meanwhile, or StorageAway."""

    def __init__(self, store: JobStore, job: Job, within: Extent, rounds: Sequence[Sequence[int]] = ()) -> None:
        """`rounds`: the committed shards of each retry."""
        self._store = store
        self.job = job
        self.extent = within
        self._rounds = rounds
        self._dimensions: int | None = None

    @property
    def rows(self) -> int:
        """All of them, error rows too."""
        return self.extent.rows

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows in the output's schema or some columns of it, `index` among them; up to BATCH_ROWS at a time."""
        found = self._base(columns)
        for shards in self._rounds:
            if shards:
                found = overlaid(found, self._shards(shards, columns))
        return found

    def errors(self, counts: Mapping[int, ShardCounts]) -> Iterator[pa.Table]:
        """The error rows, without vectors; shards that are known to have none are not read."""
        clean = {shard for shard, known in counts.items() if known.failed == 0}
        spans = tuple(span for span in self.extent.spans if span.shard not in clean)
        failed = Reading(self._store, self.job, replace(self.extent, spans=spans), self._rounds)
        for table in failed.tables(ERROR_COLUMNS):
            yield table.filter(pc.is_valid(table["error"]))

    def from_row(self, number: int) -> Reading:
        """The same without its first rows."""
        spans: list[Span] = []
        for span in self.extent.spans:
            if number < len(span):
                spans.append(replace(span, begin=span.begin + number))
            number = max(0, number - len(span))
        rest = Reading(self._store, self.job, replace(self.extent, spans=tuple(spans)), self._rounds)
        rest._dimensions = self._dimensions
        return rest

    def dimensions(self) -> int:
        """Of the first vector there is; if there is none, of those that were asked for, or 0."""
        if self._dimensions is None:
            self._dimensions = self._find_dimensions()
        return self._dimensions

    def _find_dimensions(self) -> int:
        shards = [span.shard for span in self.extent.spans] + [shard for shards in self._rounds for shard in shards]
        for table in self._shards(shards, ["vector"]):
            vectors = table["vector"].drop_null()
            if len(vectors):
                return len(vectors[0])
        return self.job.parameters.dimensions or 0

    def _base(self, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        for span in self.extent.spans:
            index = span.shard_begin
            for table in self._shards([span.shard], columns):
                wanted = table.slice(max(0, span.begin - index), max(0, span.end - max(index, span.begin)))
                index += len(table)
                if len(wanted):
                    yield wanted
                if index >= span.end:
                    break

    def _shards(self, shards: Sequence[int], columns: Sequence[str] | None) -> Iterator[pa.Table]:
        for shard in shards:
            try:
                with self._store.open_output(self.job.id, shard) as source, damage_told():
                    file = pq.ParquetFile(source, buffer_size=BUFFER_BYTES)
                    for batch in file.iter_batches(BATCH_ROWS, columns=None if columns is None else list(columns)):
                        yield pa.Table.from_batches([batch])
            except FileNotFoundError:
                raise NotFound(f"no such job: {self.job.id}") from None
            except pa.ArrowInvalid:
                logger.error("damaged output found", job=self.job.id, shard=shard)
                raise StorageAway("a part of the results is damaged in storage", retry_after_s=10) from None


def open_reading(store: JobStore, job: Job, marks: Marks, *, after: int = -1, limit: int | None = None) -> Reading:
    """What can be read of the job now. Job and marks as storage tells them, the job first. Raises StorageAway."""
    committed = frozenset(store.committed(job.id))
    is_final = marks.done is not None
    before = None if is_final else _first_retried(store, job, committed)
    within = extent(job, committed, is_final=is_final, after=after, before=before, limit=limit)
    return Reading(store, job, within, [[shard for shard in shards if shard in committed] for shards in rounds_of(job)])


def rounds_of(job: Job) -> list[range]:
    """The shards of each retry round."""
    found: list[range] = []
    begin = job.base_shards
    for shards in job.rounds:
        found.append(range(begin, begin + shards))
        begin += shards
    return found


def overlaid(lower: Iterator[pa.Table], upper: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The rows of `lower`, each replaced by the one of `upper` with its index; both in the order of their index.

    Rows of `upper` that `lower` lacks are passed over.
    """
    waiting = next(upper, None)
    for table in lower:
        last = table["index"][-1].as_py()
        fresh: list[pa.Table] = []
        while waiting is not None:
            split = int(np.searchsorted(waiting["index"].to_numpy(), last, side="right"))
            fresh.append(waiting.slice(0, split))
            waiting = waiting.slice(split)
            if len(waiting):
                break
            waiting = next(upper, None)
        yield _replaced(table, fresh)


def _replaced(table: pa.Table, fresh: Sequence[pa.Table]) -> pa.Table:
    if not any(map(len, fresh)):
        return table
    both = pa.concat_tables([table, *fresh]).combine_chunks()
    index = both["index"].to_numpy()
    old, new = index[: len(table)], index[len(table) :]
    place = np.searchsorted(old, new)
    is_here = (place < len(old)) & (old[np.minimum(place, len(old) - 1)] == new)
    order = np.arange(len(old))
    order[place[is_here]] = len(old) + np.flatnonzero(is_here)
    return both.take(order)


def _first_retried(store: JobStore, job: Job, committed: Collection[int]) -> int | None:
    """Index of the first row that waits for another try; None if there is none."""
    for shards in rounds_of(job):
        waiting = next((shard for shard in shards if shard not in committed), None)
        if waiting is not None:
            try:
                with store.open_input(job.id, waiting) as source, damage_told():
                    for batch in pq.ParquetFile(source).iter_batches(1, columns=["index"]):
                        first: int = batch["index"][0].as_py()
                        return first
            except FileNotFoundError:
                raise NotFound(f"no such job: {job.id}") from None
            except pa.ArrowInvalid:
                pass  # its worker says so; the rows stay as they were
    return None
