"""Reading a job: the prefix while it runs, all of it at the end, and each row as its last try left it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import NotFound, StorageAway
from shared.jobs import reading as reading_module
from shared.jobs.job import Counts, Done, Job, JobParameters, Marks
from shared.jobs.reading import Reading, Span, extent, open_reading, overlaid
from shared.jobs.store import JobStore
from shared.records import INPUT_SCHEMA, OUTPUT_SCHEMA, ShardCounts
from shared.storage import DirectoryStorage

RUNNING = Marks()
DONE = Marks(done=Done(status="completed", finished_at=1.0, counts=Counts()))


def job(*shards: int, rounds: tuple[int, ...] = (), **fields: object) -> Job:
    return Job.model_validate(
        {"id": "job_x", "owner": "o", "model": "m", "created_at": 0, "shards": shards, "rounds": rounds, **fields}
    )


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(DirectoryStorage(tmp_path / "storage"))


def output(indices: Sequence[int], failed: Sequence[int] = (), mark: int = 0) -> pa.Table:
    """Rows of which `mark` tells in which round they were run."""
    rows = [
        {"index": i, "error": "{}", "tokens": mark} if i in failed else {"index": i, "vector": [float(i), mark], "tokens": mark}
        for i in indices
    ]
    return pa.Table.from_pylist(rows, schema=OUTPUT_SCHEMA)


def put(store: JobStore, shard: int, indices: Sequence[int], failed: Sequence[int] = (), mark: int = 0) -> None:
    """An input shard and its output."""
    put_input(store, shard, indices)
    counts = ShardCounts(rows=len(indices), failed=len(failed), truncated=0, tokens=0, started_at=0, finished_at=1)
    assert store.commit("job_x", shard, output(indices, failed, mark), counts)


def put_input(store: JobStore, shard: int, indices: Sequence[int]) -> None:
    store.put_input("job_x", shard, pa.Table.from_pylist([{"index": i, "text": "t"} for i in indices], schema=INPUT_SCHEMA))


def indices(reading: Reading) -> list[int]:
    return [index for table in reading.tables(["index"]) for index in table["index"].to_pylist()]


def marked(tables: Iterator[pa.Table]) -> list[tuple[int, int, bool]]:
    """(index, round, has a vector) of each row."""
    return [(row["index"], row["tokens"], row["vector"] is not None) for table in tables for row in table.to_pylist()]


# How far


def test_a_running_job_gives_its_prefix_and_a_finished_one_all_it_has() -> None:
    running = extent(job(3, 3, 2), [0, 2], is_final=False)
    assert (running.spans, running.next_after, running.is_complete) == ((Span(0, 0, 0, 3),), 2, False)
    finished = extent(job(3, 3, 2), [0, 2], is_final=True)
    assert (finished.spans, finished.rows, finished.next_after, finished.is_complete) == (
        (Span(0, 0, 0, 3), Span(2, 6, 6, 8)),
        5,
        7,
        True,
    )


@pytest.mark.parametrize(
    ("after", "spans", "next_after"),
    [
        (-1, (Span(0, 0, 0, 3), Span(1, 3, 3, 6)), 5),
        (1, (Span(0, 0, 2, 3), Span(1, 3, 3, 6)), 5),
        (2, (Span(1, 3, 3, 6),), 5),
        (5, (), 5),
        (99, (), 99),
    ],
)
def test_rows_up_to_after_are_not_read(after: int, spans: tuple[Span, ...], next_after: int) -> None:
    found = extent(job(3, 3, 2), [0, 1], is_final=False, after=after)
    assert (found.spans, found.next_after, found.is_complete) == (spans, next_after, False)


def test_a_job_is_complete_with_its_last_shard_but_not_while_it_is_validated() -> None:
    assert extent(job(3, 3), [0, 1], is_final=False).is_complete
    assert not extent(job(source={"url": "files/f", "format": "ndjson"}, is_prepared=False), [], is_final=False).is_complete


@pytest.mark.parametrize(
    ("limit", "rows", "is_complete"), [(1, 1, False), (3, 3, False), (4, 4, False), (6, 6, True), (9, 6, True)]
)
def test_a_limit_ends_early_and_says_that_there_is_more(limit: int, rows: int, is_complete: bool) -> None:
    found = extent(job(3, 3), [0, 1], is_final=True, limit=limit)
    assert (found.rows, found.next_after, found.is_complete) == (rows, rows - 1, is_complete)


@given(
    shards=st.lists(st.integers(1, 4), max_size=6),
    committed=st.sets(st.integers(0, 5)),
    is_final=st.booleans(),
    limit=st.integers(1, 5),
)
def test_pages_one_after_the_other_are_the_whole(shards: list[int], committed: set[int], is_final: bool, limit: int) -> None:
    there = {shard for shard in committed if shard < len(shards)}
    whole = extent(job(*shards), there, is_final=is_final)
    rows: list[int] = []
    after = -1
    while True:
        page = extent(job(*shards), there, is_final=is_final, after=after, limit=limit)
        rows += [index for span in page.spans for index in range(span.begin, span.end)]
        after = page.next_after
        if page.is_complete or not page.rows:
            break
    assert rows == [index for span in whole.spans for index in range(span.begin, span.end)]
    assert page.is_complete == whole.is_complete


# Rows


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_rows_are_cut_to_the_extent_however_they_are_batched(
    store: JobStore, batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_module, "BATCH_ROWS", batch_rows)
    store.put_job(job(4, 4))
    put(store, 0, range(4))
    put(store, 1, range(4, 8))
    for after in range(-1, 8):
        for limit in range(1, 10):
            reading = open_reading(store, job(4, 4), DONE, after=after, limit=limit)
            wanted = list(range(after + 1, 8))[:limit]
            assert (indices(reading), reading.rows) == (wanted, len(wanted))
            assert indices(reading.from_row(3)) == wanted[3:]


def test_a_table_holds_a_few_rows_and_its_columns(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_module, "BATCH_ROWS", 2)
    store.put_job(job(5))
    put(store, 0, range(5))
    tables = list(open_reading(store, job(5), DONE).tables())
    assert [len(table) for table in tables] == [2, 2, 1]
    assert tables[0].column_names == OUTPUT_SCHEMA.names


def test_a_retried_row_is_read_as_its_last_try_left_it(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    retried = job(4, 4, 2, 2, 2, rounds=(2, 1))
    store.put_job(job(4, 4))
    put(store, 0, range(4), failed=[0, 1, 3])
    put(store, 1, range(4, 8), failed=[5, 7])
    put(store, 2, [1, 3], failed=[3], mark=1)  # row 0 has no text
    put(store, 3, [5, 7], failed=[5], mark=1)
    put(store, 4, [3, 5], failed=[5], mark=2)
    wanted = [(0, 0, False), (1, 1, True), (2, 0, True), (3, 2, True), (4, 0, True), (5, 2, False), (6, 0, True), (7, 1, True)]
    for batch_rows in (1, 3, 100):
        monkeypatch.setattr(reading_module, "BATCH_ROWS", batch_rows)
        reading = open_reading(store, retried, DONE)
        assert marked(reading.tables()) == wanted
        assert marked(reading.from_row(4).tables()) == wanted[4:]
        assert [row for table in reading.errors({}) for row in table["index"].to_pylist()] == [0, 5]
        vectors = [row["vector"] for table in reading.tables() for row in table.to_pylist()]
        assert vectors == [[i, mark] if is_good else None for i, mark, is_good in wanted]


def test_while_rows_are_tried_again_the_first_of_them_ends_the_prefix(store: JobStore) -> None:
    retried = job(4, 4, 2, 1, rounds=(2,))
    store.put_job(job(4, 4))
    put(store, 0, range(4), failed=[1, 3])
    put(store, 1, range(4, 8), failed=[5])
    put_input(store, 2, [1, 3])
    put_input(store, 3, [5])
    before = open_reading(store, retried, RUNNING)
    assert (indices(before), before.extent.is_complete) == ([0], False)
    put_output = output([1, 3], mark=1)
    counts = ShardCounts(rows=2, failed=0, truncated=0, tokens=0, started_at=0, finished_at=1)
    store.commit("job_x", 2, put_output, counts)
    between = open_reading(store, retried, RUNNING, after=0)
    assert marked(between.tables()) == [(1, 1, True), (2, 0, True), (3, 1, True), (4, 0, True)]
    # Cancelled meanwhile: what was not tried again stays as it was.
    ended = open_reading(store, retried, DONE)
    assert (indices(ended), ended.extent.is_complete) == (list(range(8)), True)
    assert marked(ended.tables())[5] == (5, 0, False)


@given(data=st.data())
def test_overlaying_replaces_exactly_the_rows_it_has(data: st.DataObject) -> None:
    index = st.lists(st.integers(0, 20), unique=True).map(sorted)
    below, above = data.draw(index), data.draw(index)

    def tables(rows: list[int], mark: int) -> Iterator[pa.Table]:
        while rows:
            size = data.draw(st.integers(1, 5))
            yield output(rows[:size], mark=mark)
            rows = rows[size:]

    found = [(i, mark) for i, mark, _ in marked(overlaid(tables(below, 0), tables(above, 1)))]
    assert found == [(i, int(i in above)) for i in below]


def test_errors_are_looked_for_only_in_shards_that_have_some(store: JobStore, tmp_path: Path) -> None:
    store.put_job(job(2, 2))
    put(store, 0, [0, 1])
    put(store, 1, [2, 3], failed=[2])
    (tmp_path / "storage/jobs/job_x/output/00000.parquet").write_bytes(b"never read")
    clean = ShardCounts(rows=2, failed=0, truncated=0, tokens=0, started_at=0, finished_at=1)
    reading = open_reading(store, job(2, 2), DONE)
    assert [table["index"].to_pylist() for table in reading.errors({0: clean})] == [[2]]


def test_dimensions_are_those_of_the_first_vector_wherever_it_lies(store: JobStore) -> None:
    store.put_job(job(1, 1))
    put(store, 0, [0], failed=[0])
    put(store, 1, [1], failed=[1])
    assert open_reading(store, job(1, 1), DONE).dimensions() == 0
    assert open_reading(store, job(1, 1, parameters=JobParameters(dimensions=7)), DONE).dimensions() == 7
    put(store, 2, [1], mark=1)
    assert open_reading(store, job(1, 1, 1, rounds=(1,)), DONE).dimensions() == 2


def test_a_damaged_shard_is_told_and_a_deleted_job_is_gone(store: JobStore, tmp_path: Path) -> None:
    store.put_job(job(2))
    put(store, 0, [0, 1])
    reading = open_reading(store, job(2), DONE)
    file = tmp_path / "storage/jobs/job_x/output/00000.parquet"
    content = file.read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:4] + bytes(len(content) - 12) + content[-8:]):
        file.write_bytes(damaged)
        with pytest.raises(StorageAway, match="damaged"):
            indices(reading)
    file.unlink()
    with pytest.raises(NotFound):
        indices(reading)
