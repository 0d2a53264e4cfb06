"""A shard is embedded and committed once, whatever comes between; what cannot be embedded is an error row."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import orjson
import pyarrow as pa
import pytest
from redis import Redis

from shared import records
from shared.errors import EngineFailed, InvalidParameter, ModelNotReady, StorageAway
from shared.jobs.index import JobIndex
from shared.jobs.job import Job, JobParameters
from shared.jobs.jobs import Jobs
from shared.jobs.reading import open_reading
from shared.jobs.store import JobStore
from shared.models import ModelConfig, ModelRegistry, Parameters
from shared.settings import Settings
from shared.storage import DirectoryStorage
from tests.support.deaths import run_past_deaths
from tests.support.engine import EngineDouble, embedded, hashed
from tests.support.jobs import submit
from tests.support.waiting import wait_until
from worker.bulk import ShardRunner
from worker.engine import Embedded, EmbedRequest

MODEL = ModelConfig(name="m", parameters=Parameters(model="fake"), backend="fake")


@pytest.fixture
def jobs(storage: DirectoryStorage, redis: Redis) -> Jobs:
    return Jobs(JobStore(storage), JobIndex(redis))


@pytest.fixture
def engine() -> EngineDouble:
    return EngineDouble()


@pytest.fixture
def runner(jobs: Jobs, engine: EngineDouble, tmp_path: Path) -> ShardRunner:
    return make_runner(jobs, engine, tmp_path)


def make_runner(jobs: Jobs, engine: EngineDouble, tmp_path: Path, worker_id: str = "w1") -> ShardRunner:
    registry = ModelRegistry({"m": MODEL})
    return ShardRunner(jobs, cast(Any, engine), registry, Settings(data_dir=tmp_path, max_attempts=2), worker_id)


def output(jobs: Jobs, job: Job, shard: int) -> pa.Table:
    with jobs.store.open_output(job.id, shard) as source:
        return records.read_table(source)


def errors_of(table: pa.Table) -> list[str | None]:
    return [None if raw is None else orjson.loads(raw)["code"] for raw in table["error"].to_pylist()]


def test_a_shard_is_committed_with_its_vectors_and_counts(jobs: Jobs, runner: ShardRunner) -> None:
    job = submit(jobs, [["a", "b b LONG", "c"]])
    runner.run(job.id, 0)
    table = output(jobs, job, 0)
    assert table["vector"].to_pylist() == hashed(["a", "b b LONG", "c"]).tolist()
    assert table["id"].to_pylist() == ["id-0", "id-1", "id-2"]
    assert table["tokens"].to_pylist() == [1, 3, 1]
    assert table["truncated"].to_pylist() == [False, True, False]
    done = jobs.store.done(job.id)
    assert done is not None
    assert done.status == "completed"
    assert (done.counts.total, done.counts.completed, done.counts.truncated, done.counts.tokens) == (3, 3, 1, 5)


def test_rows_that_are_errors_already_never_reach_the_engine(jobs: Jobs, runner: ShardRunner, engine: EngineDouble) -> None:
    job = submit(jobs, [[None, "a", None], [None]])
    runner.run(job.id, 0)
    runner.run(job.id, 1)
    assert [list(request.texts) for request in engine.requests] == [["a"]]
    table = output(jobs, job, 0)
    assert errors_of(table) == ["invalid_line", None, "invalid_line"]
    assert table["vector"].to_pylist() == [None, hashed(["a"])[0].tolist(), None]
    assert jobs.view(job.id).counts.failed == 3
    assert jobs.view(job.id).status == "completed"


def test_a_row_that_fails_in_the_engine_fails_alone(jobs: Jobs, runner: ShardRunner, engine: EngineDouble) -> None:
    def answer(request: EmbedRequest) -> Embedded:
        good = embedded(request)
        return Embedded(
            vectors=good.vectors,
            tokens=good.tokens,
            truncated=good.truncated,
            errors={1: EngineFailed("NaN")},
            queue_s=0,
            embed_s=0,
        )

    engine.answer = answer
    job = submit(jobs, [[None, "a", "b", "c"]])
    runner.run(job.id, 0)
    assert errors_of(output(jobs, job, 0)) == ["invalid_line", None, "engine_failed", None]


def test_wrong_parameters_are_every_rows_error(jobs: Jobs, runner: ShardRunner, engine: EngineDouble) -> None:
    def refuse(request: EmbedRequest) -> Embedded:
        assert request.dimensions == 999
        raise InvalidParameter("dimensions: at most 4", param="dimensions")

    engine.answer = refuse
    job = submit(jobs, [["a", "b"]], parameters=JobParameters(dimensions=999))
    runner.run(job.id, 0)
    assert errors_of(output(jobs, job, 0)) == ["invalid_value", "invalid_value"]
    assert jobs.view(job.id).counts.failed == 2


def test_a_redelivered_shard_changes_nothing(jobs: Jobs, runner: ShardRunner, engine: EngineDouble) -> None:
    job = submit(jobs, [["a"], ["b"]])
    runner.run(job.id, 0)
    before = jobs.view(job.id).counts
    runner.run(job.id, 0)
    assert jobs.view(job.id).counts == before
    assert len(engine.requests) == 1


def test_a_shard_that_another_worker_runs_is_left_to_it(jobs: Jobs, runner: ShardRunner, engine: EngineDouble) -> None:
    job = submit(jobs, [["a"]])
    assert jobs.index.lease(job.id, "m", 0, "somebody else", 30)
    runner.run(job.id, 0)
    assert engine.requests == []
    assert jobs.index.in_flight("m") == {(job.id, 0)}


def test_two_workers_that_run_one_shard_commit_it_once(jobs: Jobs, tmp_path: Path) -> None:
    job = submit(jobs, [["a"]])
    engines = [EngineDouble(), EngineDouble()]
    for engine in engines:
        engine.hold = True
    threads = []
    for number, engine in enumerate(engines):
        runner = make_runner(jobs, engine, tmp_path, f"w{number}")
        thread = threading.Thread(target=runner.run, args=(job.id, 0))
        thread.start()
        wait_until(lambda engine=engine: engine.requests)  # type: ignore[misc]
        jobs.index._redis.delete(f"umekomi:lease:{job.id}/0")  # the first one's lease ran out
        threads.append(thread)
    for engine, thread in zip(engines, threads, strict=True):
        engine.release()
        thread.join()
    assert jobs.view(job.id).counts.completed == 1
    assert jobs.view(job.id).status == "completed"


def test_a_job_that_is_cancelled_while_it_runs_commits_nothing_more(
    jobs: Jobs, runner: ShardRunner, engine: EngineDouble
) -> None:
    engine.hold = True
    job = submit(jobs, [["a"], ["b"]])
    thread = threading.Thread(target=runner.run, args=(job.id, 0))
    thread.start()
    wait_until(lambda: engine.requests)
    jobs.cancel(jobs.view(job.id))
    runner.stop_those_stopped()
    thread.join()
    engine.release()
    assert jobs.store.committed(job.id) == []
    assert jobs.index.in_flight("m") == set()
    assert jobs.store.crashes(job.id, 0) == {}


def test_a_wiped_redis_does_not_stop_what_runs(jobs: Jobs, runner: ShardRunner, engine: EngineDouble, redis: Redis) -> None:
    engine.hold = True
    job = submit(jobs, [["a"]])
    thread = threading.Thread(target=runner.run, args=(job.id, 0))
    thread.start()
    wait_until(lambda: engine.requests)
    redis.flushall()
    runner.stop_those_stopped()
    runner.renew()
    assert jobs.index.in_flight("m") == {(job.id, 0)}
    engine.release()
    thread.join()
    assert jobs.view(job.id).status == "completed"


def test_nothing_of_a_deleted_job_reappears(
    jobs: Jobs, runner: ShardRunner, engine: EngineDouble, storage: DirectoryStorage
) -> None:
    engine.hold = True
    job = submit(jobs, [["a"]])
    thread = threading.Thread(target=runner.run, args=(job.id, 0))
    thread.start()
    wait_until(lambda: engine.requests)
    jobs.delete(jobs.view(job.id))
    engine.release()
    thread.join()
    assert storage.list("jobs") == []
    assert jobs.index.running() == []


def test_a_model_that_is_not_ready_puts_the_shard_off(jobs: Jobs, runner: ShardRunner, engine: EngineDouble) -> None:
    def refuse(request: EmbedRequest) -> Embedded:
        raise ModelNotReady("it does not load")

    engine.answer = refuse
    job = submit(jobs, [["a"]])
    runner.run(job.id, 0)
    assert jobs.store.committed(job.id) == []
    assert jobs.store.crashes(job.id, 0) == {}
    assert jobs.index.in_flight("m") == {(job.id, 0)}  # sent again when the lease has run out


def test_a_full_disk_puts_the_shard_off(jobs: Jobs, runner: ShardRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit(jobs, [["a"]])

    def full(*_: Any) -> bool:
        raise StorageAway("storage is full")

    with monkeypatch.context() as patch:
        patch.setattr(jobs.store, "commit", full)
        runner.run(job.id, 0)
    assert jobs.view(job.id).status == "in_progress"
    jobs.index.release(job.id, "m", 0, "w1")
    runner.run(job.id, 0)
    assert jobs.view(job.id).status == "completed"


def test_a_damaged_input_is_error_rows_not_a_loop(jobs: Jobs, runner: ShardRunner, storage: DirectoryStorage) -> None:
    job = submit(jobs, [["a"], ["b", "c"]])
    storage.write(f"jobs/{job.id}/input/00001.parquet", b"PAR1 cut short")
    runner.run(job.id, 1)
    table = output(jobs, job, 1)
    assert errors_of(table) == ["input_damaged"] * 2
    assert table["index"].to_pylist() == [1, 2]


def test_a_damaged_input_of_a_retry_leaves_its_rows_the_failures_they_were(
    jobs: Jobs, runner: ShardRunner, engine: EngineDouble, storage: DirectoryStorage
) -> None:
    def refuse(request: EmbedRequest) -> Embedded:
        raise InvalidParameter("no", param="dimensions")

    engine.answer = refuse
    job = submit(jobs, [["a", "b"]])
    runner.run(job.id, 0)
    jobs.retry(jobs.view(job.id))
    storage.write(f"jobs/{job.id}/input/00001.parquet", b"PAR1 cut short")
    runner.run(job.id, 1)
    view = jobs.view(job.id)
    assert view.status == "completed"
    assert (view.counts.total, view.counts.completed, view.counts.failed) == (2, 0, 2)
    assert [table["index"].to_pylist() for table in open_reading(jobs.store, view.job, view.marks).tables()] == [[0, 1]]


def test_a_damaged_output_is_made_again(jobs: Jobs, runner: ShardRunner, storage: DirectoryStorage) -> None:
    job = submit(jobs, [["a"], ["b"]])
    runner.run(job.id, 0)
    storage.write(f"jobs/{job.id}/output/00000.parquet", b"PAR1 cut short")
    runner.run(job.id, 1)  # the last one: the end is looked for, and the damage found
    assert jobs.store.done(job.id) is None
    assert set(jobs.view(job.id).committed) == {1}
    runner.run(job.id, 0)
    assert jobs.view(job.id).status == "completed"


def test_the_row_that_kills_workers_is_alone_an_error(
    jobs: Jobs, runner: ShardRunner, engine: EngineDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str | None] = ["a", "b", "POISON", "c", "d"]
    job = submit(jobs, [texts])
    run_past_deaths(jobs, runner, engine, job, monkeypatch)
    table = output(jobs, job, 0)
    assert errors_of(table) == [None, None, "engine_failed", None, None]
    assert table["index"].to_pylist() == [0, 1, 2, 3, 4]
    vectors = table["vector"].to_pylist()
    assert vectors[:2] + vectors[3:] == hashed(["a", "b", "c", "d"]).tolist()
    assert jobs.view(job.id).counts.failed == 1
