"""Retrying failed rows: which, in which shards, and that whatever dies on the way leaves the job whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pyarrow as pa
import pytest
from redis import Redis

from shared.errors import Conflict, ContextLengthExceeded, NotFound, StorageAway
from shared.jobs import retrying
from shared.jobs.finishing import end, finish, finish_cancelled
from shared.jobs.index import JobIndex
from shared.jobs.job import Counts, Done, Job, Marks
from shared.jobs.jobs import Jobs
from shared.jobs.reading import open_reading
from shared.jobs.retrying import MAX_ROUNDS, Retried, check, cut
from shared.jobs.store import JobStore
from shared.records import read_table
from shared.settings import Settings
from shared.storage import DirectoryStorage
from tests.support.engine import EngineDouble, embedded
from tests.support.jobs import input_table, submit
from tests.web.support import model, registry
from worker.bulk import ShardRunner
from worker.engine import Embedded, EmbedRequest


@pytest.fixture
def jobs(storage: DirectoryStorage, redis: Redis) -> Jobs:
    return Jobs(JobStore(storage), JobIndex(redis))


@pytest.fixture
def engine() -> EngineDouble:
    """Fails on every text with BAD in it, as long as that is what the test wants."""
    double = EngineDouble()
    double.answer = refusing("BAD")
    return double


def refusing(word: str) -> Callable[[EmbedRequest], Embedded]:
    def answer(request: EmbedRequest) -> Embedded:
        found = embedded(request)
        wrong = ContextLengthExceeded("too long", param="input")
        for position, text in enumerate(request.texts):
            if word in text:
                found.errors[position] = wrong
                found.tokens[position] = 0
        return found

    return answer


@pytest.fixture
def run(jobs: Jobs, engine: EngineDouble) -> Callable[[str], None]:
    """Everything of a job that is not committed yet, as a worker would."""
    runner = ShardRunner(jobs, cast(Any, engine), registry(model("m")), Settings(), "w1")

    def run_all(job_id: str) -> None:
        there = set(jobs.store.committed(job_id))
        for shard in range(len(jobs.store.get(job_id).shards)):
            if shard not in there:
                runner.run(job_id, shard)

    return run_all


def rows(jobs: Jobs, job_id: str) -> list[dict[str, Any]]:
    view = jobs.from_storage(job_id)
    return [row for table in open_reading(jobs.store, view.job, view.marks).tables() for row in table.to_pylist()]


def failed(jobs: Jobs, job_id: str) -> list[int]:
    return [row["index"] for row in rows(jobs, job_id) if row["error"] is not None]


def inputs(jobs: Jobs, job_id: str, shard: int) -> pa.Table:
    with jobs.store.open_input(job_id, shard) as source:
        return read_table(source)


def test_failed_rows_run_again_in_their_places_and_the_others_stay(
    jobs: Jobs, engine: EngineDouble, run: Callable[[str], None]
) -> None:
    job = submit(jobs, [["a", "BAD b", None], ["c"], ["BAD BAD d", "e", "f"]])
    run(job.id)
    before = rows(jobs, job.id)
    assert failed(jobs, job.id) == [1, 2, 4]
    assert jobs.view(job.id).counts == Counts(total=7, completed=4, failed=3, tokens=4)

    running = jobs.retry(jobs.view(job.id))
    assert (running.status, running.job.rounds, running.job.shards[3:]) == ("in_progress", (1,), (2,))
    assert (running.counts.completed, running.counts.failed) == (4, 1)  # two wait; the line without a text is an error for good
    assert inputs(jobs, job.id, 3) == pa.concat_tables([inputs(jobs, job.id, 0).slice(1, 1), inputs(jobs, job.id, 2).slice(0, 1)])

    engine.requests.clear()
    engine.answer = refusing("BAD BAD")
    run(job.id)
    assert [request.texts for request in engine.requests] == [["BAD b", "BAD BAD d"]]
    assert failed(jobs, job.id) == [2, 4]
    done = jobs.view(job.id)
    assert (done.status, done.counts.completed, done.counts.failed) == ("completed", 5, 2)
    after = rows(jobs, job.id)
    assert [row["id"] for row in after] == [row["id"] for row in before] == [f"id-{n}" for n in range(7)]
    assert [row["line"] for row in after] == list(range(1, 8))
    assert [after[n] for n in (0, 2, 3, 4, 5, 6)] == [before[n] for n in (0, 2, 3, 4, 5, 6)]

    # The next round looks at the last one alone.
    engine.answer = embedded
    jobs.store.storage.write(f"jobs/{job.id}/input/00000.parquet", b"never read")
    assert jobs.retry(done).job.shards[3:] == (2, 1)
    run(job.id)
    assert failed(jobs, job.id) == [2]
    assert jobs.view(job.id).counts.failed == 1
    with pytest.raises(Conflict, match="none of the failed rows has a text"):
        jobs.retry(jobs.view(job.id))


def done_job(jobs: Jobs, status: str = "completed", failed: int = 1, **fields: Any) -> Job:
    job = submit(jobs, [["a"]], **fields)
    done = Done.model_validate({"status": status, "finished_at": 1.0, "counts": {"total": 1, "failed": failed}})
    assert end(jobs, jobs.view(job.id), done)
    return job


def test_what_cannot_be_retried_says_why(jobs: Jobs) -> None:
    with pytest.raises(Conflict, match="not finished"):
        jobs.retry(jobs.view(submit(jobs, [["a"]]).id))
    for status in ("failed", "cancelled", "expired"):
        with pytest.raises(Conflict, match=f"the job is {status}"):
            jobs.retry(jobs.view(done_job(jobs, status).id))
    with pytest.raises(Conflict, match="no row of the job failed"):
        jobs.retry(jobs.view(done_job(jobs, failed=0).id))
    late = done_job(jobs)  # cancelled in the moment in which it completed: a further round could not run
    jobs.store.mark_cancelled(late.id)
    with pytest.raises(Conflict, match="the job is cancelled"):
        jobs.retry(jobs.view(late.id))
    with pytest.raises(Conflict, match="batch"):
        jobs.retry(jobs.view(done_job(jobs, kind="batch").id))
    marks = Marks(done=Done(status="completed", finished_at=1, counts=Counts(failed=1)))
    often = Job(id="j", owner="o", model="m", created_at=0, shards=(1,) * (MAX_ROUNDS + 1), rounds=(1,) * MAX_ROUNDS)
    with pytest.raises(Conflict, match="times"):
        check(often, marks)


def test_a_retry_that_cannot_be_kept_changes_nothing_and_the_next_one_works(
    jobs: Jobs, run: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(jobs, [["BAD", "a"], ["BAD"]])
    run(job.id)
    before = jobs.from_storage(job.id)
    for method in ("create", "write"):  # the round; its shards and the note for Redis
        with monkeypatch.context() as broken:

            def full(*_: Any) -> None:
                raise StorageAway("storage is full")

            broken.setattr(jobs.store.storage, method, full)
            with pytest.raises(StorageAway):
                jobs.retry(jobs.view(job.id))
        assert jobs.from_storage(job.id) == before
        assert jobs.view(job.id).status == "completed"
        assert failed(jobs, job.id) == [0, 2]
    jobs.retry(jobs.view(job.id))
    run(job.id)
    assert jobs.store.get(job.id).rounds == (2,)
    assert jobs.view(job.id).status == "completed"


def test_a_crash_before_redis_was_told_is_mended_by_the_note(
    jobs: Jobs, run: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(jobs, [["BAD"]])
    run(job.id)

    def crash(_: str) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as crashing:
        crashing.setattr(jobs, "announce", crash)
        with pytest.raises(KeyboardInterrupt):
            jobs.retry(jobs.view(job.id))
    assert jobs.store.unannounced() == [job.id]
    assert jobs.announce(job.id)
    assert jobs.index.running() == [job.id]
    assert jobs.view(job.id).status == "in_progress"


def test_two_retries_at_once_make_one_round(jobs: Jobs, run: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit(jobs, [["BAD"], ["BAD"]])
    run(job.id)
    both_written = threading.Barrier(2)
    write_round = retrying.write_round

    def written_by_both(store: JobStore, job: Job) -> tuple[int, ...]:
        shards = write_round(store, job)
        both_written.wait(10)
        return shards

    monkeypatch.setattr(retrying, "write_round", written_by_both)
    statuses: list[str] = []
    threads = [threading.Thread(target=lambda: statuses.append(jobs.retry(jobs.view(job.id)).status)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == ["in_progress", "in_progress"]
    assert jobs.store.get(job.id).rounds == (2,)
    run(job.id)
    assert jobs.view(job.id).counts == Counts(total=2, failed=2)


def test_a_job_deleted_meanwhile_does_not_reappear(
    jobs: Jobs, run: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(jobs, [["BAD"]])
    run(job.id)
    view = jobs.view(job.id)
    put_round = jobs.store.put_round

    def deleted_first(*given: Any) -> bool:
        jobs.delete(view)
        return put_round(*given)

    monkeypatch.setattr(jobs.store, "put_round", deleted_first)
    with pytest.raises(NotFound):
        jobs.retry(view)
    assert jobs.store.ids() == []
    assert jobs.index.running() == []
    assert jobs.store.unannounced() == []


def test_old_news_of_the_end_does_not_stop_a_job_that_was_retried(jobs: Jobs, run: Callable[[str], None]) -> None:
    """Two workers end a job; one of them tells Redis when its failed rows are already being tried again."""
    job = submit(jobs, [["BAD"]])
    run(job.id)
    ended = jobs.from_storage(job.id)
    jobs.retry(ended)
    assert ended.marks.done is not None
    jobs.tell(ended.job, ended.marks)
    assert (jobs.view(job.id).status, jobs.index.running()) == ("in_progress", [job.id])
    jobs._put(ended)
    assert (jobs.view(job.id).status, jobs.view(job.id).job.rounds) == ("in_progress", (1,))


def test_a_retry_can_be_cancelled_and_the_rows_stay_failed(jobs: Jobs, run: Callable[[str], None]) -> None:
    job = submit(jobs, [["BAD", "a"]])
    run(job.id)
    jobs.cancel(jobs.retry(jobs.view(job.id)))
    assert finish_cancelled(jobs, jobs.view(job.id))
    done = jobs.view(job.id)
    assert (done.status, done.counts.completed, done.counts.failed) == ("cancelled", 1, 1)
    assert failed(jobs, job.id) == [0]
    assert not finish(jobs, job)
    with pytest.raises(Conflict, match="cancelled"):
        jobs.retry(done)


def test_only_shards_with_failures_are_read(jobs: Jobs, run: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit(jobs, [["a"], ["BAD"], ["b"]])
    run(job.id)
    opened: list[int] = []
    open_input = jobs.store.open_input
    monkeypatch.setattr(jobs.store, "open_input", lambda job_id, shard: opened.append(shard) or open_input(job_id, shard))
    jobs.retry(jobs.view(job.id))
    assert opened == [1]


def test_a_shard_of_a_retry_is_as_much_work_as_those_it_comes_from() -> None:
    sizes = [
        [len(table) for table in cut(Retried(input_table(["x"] * rows), rows / of) for rows, of in given)]
        for given in ([(10, 10)] * 3, [(1, 4)] * 6, [(3, 4), (2, 4), (5, 5), (1, 100)], [])
    ]
    assert sizes == [[10, 10, 10], [4, 2], [3, 2, 5, 1], []]
