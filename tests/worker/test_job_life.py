"""Pause, resume, cancel, delete: at any moment of a job, without Redis, after a kill, two at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from shared import bulk, keys
from shared.connections import connect
from shared.errors import NotFound
from shared.jobs.index import JobIndex
from shared.jobs.job import PREPARE, Job, JobView, Source
from shared.jobs.jobs import Jobs
from shared.jobs.store import JobStore
from shared.models import ModelConfig, ModelRegistry, Parameters
from shared.presence import PresenceBoard
from shared.settings import Settings
from shared.storage import DirectoryStorage
from tests.support.engine import EngineDouble
from tests.support.jobs import input_table, submit
from tests.support.waiting import wait_until
from tests.worker.test_reconciler import announce_worker, sent
from worker.bulk import ShardRunner
from worker.reconciler import Reconciler


@pytest.fixture
def jobs(storage: DirectoryStorage, redis: Redis) -> Jobs:
    return Jobs(JobStore(storage), JobIndex(redis))


@pytest.fixture
def away(storage: DirectoryStorage) -> Jobs:
    """The same jobs, for somebody who cannot reach Redis."""
    return Jobs(JobStore(storage), JobIndex(connect("redis://127.0.0.1:1")))


@pytest.fixture
def leader(jobs: Jobs, redis: Redis, redis_url: str, tmp_path: Path) -> Iterator[Reconciler]:
    celery: Celery = bulk.make_celery(redis_url, ["m"], shards_at_once=1)
    announce_worker(redis)
    yield Reconciler(jobs, PresenceBoard(redis), celery, lambda: ["m"], Settings(data_dir=tmp_path), "w1")
    celery.close()


class Preparing:
    """A step that reads a source: it stores a shard, waits, and stores another, unless it is stopped."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.began, self.may_end = threading.Event(), threading.Event()

    def __call__(self, view: JobView, is_stopped: Callable[[], bool]) -> None:
        self.jobs.store.put_input(view.job.id, 0, input_table(["a"]))
        self.began.set()
        while not self.may_end.wait(0.005):
            if is_stopped():
                self.jobs.store.put_input(view.job.id, 1, input_table(["late"], 1))
                raise CancelledError
        self.jobs.store.put_prepared(view.job.id, [1])


@pytest.fixture
def preparing(jobs: Jobs) -> Preparing:
    return Preparing(jobs)


@pytest.fixture
def engine() -> EngineDouble:
    return EngineDouble()


@pytest.fixture
def runner(jobs: Jobs, engine: EngineDouble, preparing: Preparing, tmp_path: Path) -> ShardRunner:
    registry = ModelRegistry({"m": ModelConfig(name="m", backend="fake", parameters=Parameters(model="fake"))})
    return ShardRunner(jobs, engine, registry, Settings(data_dir=tmp_path), "w1", {PREPARE: preparing})  # type: ignore[arg-type]


def with_source(jobs: Jobs) -> Job:
    return submit(jobs, [], source=Source(url="files/x/content", format="ndjson"), is_prepared=False)


class Running:
    """A shard or step that a thread runs."""

    def __init__(self, runner: ShardRunner, job: Job, shard: int) -> None:
        self._runner = runner
        self._thread = threading.Thread(target=runner.run, args=(job.id, shard))
        self._thread.start()

    def hear_of_it(self) -> None:
        """The next heartbeat; then it ends."""
        self._runner.stop_those_stopped()
        self.end()

    def end(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


def traces(storage: DirectoryStorage, redis: Redis, job: Job) -> list[str]:
    """What is left of a job anywhere."""
    files = [str(path) for path in storage.root.rglob("*") if job.id in str(path)]
    named: list[Any] = [name.decode() for name in redis.keys("*") if job.id.encode() in name]  # type: ignore[union-attr]
    listed = [
        name for name in (keys.JOBS_RUNNING, keys.JOBS_FINISHED, keys.PASSES, keys.jobs_of("o")) if redis.zscore(name, job.id)
    ]
    return files + named + listed


def test_a_job_cancelled_before_its_source_is_read_ends_and_is_never_read(
    jobs: Jobs, redis: Redis, leader: Reconciler, runner: ShardRunner, preparing: Preparing
) -> None:
    job = with_source(jobs)
    leader.reconcile()
    assert sent(redis) == [(job.id, PREPARE)]
    assert jobs.view(job.id).status == "validating"
    assert jobs.cancel(jobs.view(job.id)).status == "cancelled"
    runner.run(job.id, PREPARE)  # the message that was on its way
    assert not preparing.began.is_set()
    leader.reconcile()
    done = jobs.from_storage(job.id).marks.done
    assert done is not None
    assert (done.status, done.counts.total) == ("cancelled", 0)


def test_a_job_cancelled_while_its_source_is_read_stops_reading_and_ends(
    jobs: Jobs, leader: Reconciler, runner: ShardRunner, preparing: Preparing
) -> None:
    job = with_source(jobs)
    running = Running(runner, job, PREPARE)
    assert preparing.began.wait(10)
    jobs.cancel(jobs.view(job.id))
    running.hear_of_it()
    leader.reconcile()
    assert jobs.from_storage(job.id).status == "cancelled"
    assert jobs.from_storage(job.id).marks.done is not None


def test_a_job_paused_while_its_source_is_read_goes_on_when_it_is_resumed(
    jobs: Jobs, redis: Redis, leader: Reconciler, runner: ShardRunner, preparing: Preparing
) -> None:
    job = with_source(jobs)
    running = Running(runner, job, PREPARE)
    assert preparing.began.wait(10)
    assert jobs.pause(jobs.view(job.id)).status == "paused"
    running.hear_of_it()
    leader.reconcile()
    assert sent(redis) == []
    assert jobs.resume(jobs.view(job.id)).status == "validating"
    leader.reconcile()
    assert sent(redis) == [(job.id, PREPARE)]
    preparing.may_end.set()
    runner.run(job.id, PREPARE)
    assert (jobs.view(job.id).job.shards, jobs.view(job.id).status) == ((1,), "queued")


def test_a_job_deleted_while_its_source_is_read_leaves_nothing_behind(
    jobs: Jobs, redis: Redis, storage: DirectoryStorage, leader: Reconciler, runner: ShardRunner, preparing: Preparing
) -> None:
    job = with_source(jobs)
    running = Running(runner, job, PREPARE)
    assert preparing.began.wait(10)
    jobs.delete(jobs.view(job.id))
    running.hear_of_it()
    leader.reconcile()
    assert traces(storage, redis, job) == []


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_job_deleted_while_a_shard_runs_leaves_nothing_behind(
    jobs: Jobs, redis: Redis, storage: DirectoryStorage, runner: ShardRunner, engine: EngineDouble, is_heard: bool
) -> None:
    job = submit(jobs, [["a"], ["b"]])
    engine.hold = True
    running = Running(runner, job, 0)
    wait_until(lambda: engine.requests)
    jobs.delete(jobs.view(job.id))
    if is_heard:
        running.hear_of_it()
    else:  # its output comes before the worker has looked
        engine.release()
        running.end()
    assert traces(storage, redis, job) == []


def test_who_was_told_that_a_job_is_cancelled_never_sees_it_completed(jobs: Jobs, away: Jobs, runner: ShardRunner) -> None:
    job = submit(jobs, [["a"]])
    assert away.cancel(away.view(job.id)).status == "cancelled"
    runner.run(job.id, 0)  # Redis has not heard of it
    done = jobs.from_storage(job.id).marks.done
    assert done is not None
    assert (done.status, done.counts.completed) == ("cancelled", 1)


def test_what_was_decided_without_redis_holds_when_it_is_back(jobs: Jobs, away: Jobs, redis: Redis, leader: Reconciler) -> None:
    paused, cancelled = submit(jobs, [["a"]]), submit(jobs, [["a"]])
    away.pause(away.view(paused.id))
    away.cancel(away.view(cancelled.id))
    leader.reconcile()
    assert sent(redis) == []
    assert (jobs.view(paused.id).status, jobs.view(cancelled.id).status) == ("paused", "cancelled")


def test_a_paused_job_is_paused_after_a_wipe(jobs: Jobs, redis: Redis, leader: Reconciler) -> None:
    job = submit(jobs, [["a"]])
    jobs.pause(jobs.view(job.id))
    redis.flushall()
    announce_worker(redis)
    leader.reconcile()
    assert sent(redis) == []
    assert jobs.view(job.id).status == "paused"


def test_a_job_deleted_without_redis_is_forgotten_as_soon_as_it_is_back(
    jobs: Jobs, away: Jobs, redis: Redis, storage: DirectoryStorage, leader: Reconciler
) -> None:
    job = submit(jobs, [["a"]])
    away.delete(away.view(job.id))
    leader.reconcile()
    assert traces(storage, redis, job) == []
    with pytest.raises(NotFound):
        jobs.view(job.id)


def test_a_worker_that_runs_a_job_deleted_without_redis_does_not_bring_it_back(
    jobs: Jobs, away: Jobs, redis: Redis, storage: DirectoryStorage, leader: Reconciler, runner: ShardRunner, engine: EngineDouble
) -> None:
    job = submit(jobs, [["a"]])
    engine.hold = True
    running = Running(runner, job, 0)
    wait_until(lambda: engine.requests)
    away.delete(away.view(job.id))
    engine.release()
    running.end()
    leader.reconcile()
    assert traces(storage, redis, job) == []


def test_a_deletion_that_was_killed_half_way_is_finished_by_the_leader(
    jobs: Jobs, redis: Redis, storage: DirectoryStorage, leader: Reconciler
) -> None:
    job = submit(jobs, [["a"]])
    jobs.store.to_announce(job.id)
    storage.delete(f"jobs/{job.id}/job.json")  # and then the power went
    leader.reconcile()
    assert traces(storage, redis, job) == []


@pytest.mark.parametrize("decide", [Jobs.cancel, Jobs.pause])
def test_a_decision_on_a_job_deleted_at_the_same_moment_finds_no_job_and_leaves_nothing(
    jobs: Jobs, redis: Redis, storage: DirectoryStorage, leader: Reconciler, decide: Callable[[Jobs, JobView], JobView]
) -> None:
    job = submit(jobs, [["a"]])
    view = jobs.view(job.id)
    jobs.delete(view)
    with pytest.raises(NotFound):
        decide(jobs, view)
    leader.reconcile()
    jobs.announce(job.id)  # what the leader does with the note when it is a minute old
    assert traces(storage, redis, job) == []


def test_pausing_and_resuming_at_once_leaves_redis_and_storage_of_one_mind(jobs: Jobs) -> None:
    job = submit(jobs, [["a"]])
    view = jobs.view(job.id)
    threads = [threading.Thread(target=decide, args=(view,)) for decide in (jobs.pause, jobs.resume) * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert jobs.view(job.id).status == jobs.from_storage(job.id).status
