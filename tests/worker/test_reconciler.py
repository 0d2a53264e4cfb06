"""One leader deals the shards of all jobs within a bound, and sends again whatever was lost."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis

from shared import bulk, keys
from shared.files import FileStore
from shared.jobs.index import JobIndex
from shared.jobs.job import FINALIZE, new_job_id
from shared.jobs.jobs import Jobs
from shared.jobs.store import JobStore
from shared.presence import ModelPresence, PresenceBoard, WorkerPresence
from shared.records import ShardCounts
from shared.settings import Settings
from shared.storage import DirectoryStorage
from tests.support.jobs import input_table, submit
from tests.support.waiting import wait_until
from worker import reconciler as module
from worker.reconciler import Reconciler
from worker.rows import to_output


@pytest.fixture
def jobs(storage: DirectoryStorage, redis: Redis) -> Jobs:
    return Jobs(JobStore(storage), JobIndex(redis))


@pytest.fixture
def celery(redis_url: str) -> Iterator[Celery]:
    app = bulk.make_celery(redis_url, ["m", "n"], shards_at_once=1)
    yield app
    app.close()


@pytest.fixture
def reconciler(jobs: Jobs, redis: Redis, celery: Celery, tmp_path: Path) -> Reconciler:
    return make(jobs, redis, celery, tmp_path)


def make(jobs: Jobs, redis: Redis, celery: Celery, tmp_path: Path, worker_id: str = "w1", **settings: Any) -> Reconciler:
    chosen = Settings(**{"data_dir": tmp_path, "window": 2, "reconcile_interval_s": 0.05, "resend_after_s": 30} | settings)
    return Reconciler(jobs, PresenceBoard(redis), celery, lambda: ["m", "n"], chosen, worker_id)


def announce_worker(redis: Redis, name: str = "w1", shards_at_once: int = 1, state: Any = "ready") -> None:
    PresenceBoard(redis).announce(
        WorkerPresence(
            id=name,
            host="h",
            pid=1,
            device="cpu",
            started_at=0,
            shards_at_once=shards_at_once,
            models={"m": ModelPresence(state=state)},
        )
    )


def sent(redis: Redis, model: str = "m") -> list[tuple[str, int]]:
    """What lies in Celery's queue, oldest first; nothing but job and shard."""
    found = []
    for raw in reversed(redis.lrange(keys.bulk_queue(model), 0, -1)):  # type: ignore[arg-type]
        args, kwargs, _ = orjson.loads(base64.b64decode(orjson.loads(raw)["body"]))
        assert kwargs == {}
        found.append((args[0], args[1]))
    return found


def commit(jobs: Jobs, job_id: str, shard: int, rows: int = 1) -> ShardCounts:
    counts = ShardCounts(rows=rows, failed=0, truncated=0, tokens=1, started_at=time.time(), finished_at=time.time())
    table = to_output(input_table([None] * rows, shard), None, [], None)
    assert jobs.store.commit(job_id, shard, table, counts)
    return counts


def test_shards_in_flight_are_bounded_whatever_the_corpus(jobs: Jobs, redis: Redis, reconciler: Reconciler) -> None:
    job = submit(jobs, [["a"]] * 50)
    announce_worker(redis, "w1", shards_at_once=3)
    announce_worker(redis, "w2", shards_at_once=1)
    reconciler.reconcile()
    reconciler.reconcile()
    assert sent(redis) == [(job.id, shard) for shard in range(3 + 2 + 1 + 2)]


def test_a_finished_shard_makes_room_for_the_next(jobs: Jobs, redis: Redis, reconciler: Reconciler) -> None:
    job = submit(jobs, [["a"]] * 50)
    announce_worker(redis)
    reconciler.reconcile()
    assert sent(redis) == [(job.id, 0), (job.id, 1), (job.id, 2)]
    jobs.index.committed(job.id, 0, commit(jobs, job.id, 0))
    jobs.index.release(job.id, "m", 0, "w1")
    assert jobs.index.wait_for_deal(1) == {"m"}
    reconciler.deal("m")
    assert sent(redis)[3:] == [(job.id, 3)]


def test_nothing_is_sent_while_no_worker_can_run_it(jobs: Jobs, redis: Redis, reconciler: Reconciler) -> None:
    submit(jobs, [["a"]])
    announce_worker(redis, state="failed")
    reconciler.reconcile()
    assert sent(redis) == []


def test_paused_and_cancelled_jobs_get_nothing(jobs: Jobs, redis: Redis, reconciler: Reconciler) -> None:
    paused, cancelled, running = (submit(jobs, [["a"]]) for _ in range(3))
    jobs.pause(jobs.view(paused.id))
    jobs.cancel(jobs.view(cancelled.id))
    announce_worker(redis)
    reconciler.reconcile()
    assert sent(redis) == [(running.id, 0)]
    done = jobs.store.done(cancelled.id)
    assert done is not None
    assert done.status == "cancelled"
    jobs.resume(jobs.view(paused.id))
    reconciler.reconcile()
    assert sent(redis)[1:] == [(paused.id, 0)]


def test_a_lost_message_is_sent_again(jobs: Jobs, redis: Redis, celery: Celery, tmp_path: Path) -> None:
    job = submit(jobs, [["a"]])
    announce_worker(redis)
    make(jobs, redis, celery, tmp_path, resend_after_s=1).reconcile()
    redis.delete(keys.bulk_queue("m"))
    redis.zadd(keys.in_flight("m"), {f"{job.id}/0": time.time() - 1})  # its time is up
    make(jobs, redis, celery, tmp_path).reconcile()
    assert sent(redis) == [(job.id, 0)]


def test_a_wiped_redis_is_filled_from_storage(jobs: Jobs, redis: Redis, reconciler: Reconciler) -> None:
    job = submit(jobs, [["a"], ["b"], ["c"]])
    reconciler.reconcile()
    jobs.index.committed(job.id, 1, commit(jobs, job.id, 1))
    redis.flushall()
    announce_worker(redis)
    reconciler.reconcile()
    assert sent(redis) == [(job.id, 0), (job.id, 2)]
    assert jobs.index.newest_of("o", None, 10) == [job.id]
    assert jobs.view(job.id).counts.completed == 1
    assert jobs.view(job.id).status == "in_progress"


def test_a_job_submitted_while_redis_was_away_is_found(
    jobs: Jobs, redis: Redis, reconciler: Reconciler, storage: DirectoryStorage
) -> None:
    reconciler.reconcile()
    away = Jobs(JobStore(storage), JobIndex(Redis(port=1, socket_connect_timeout=0.2)))
    job = submit(away, [["a"]])
    assert jobs.store.unannounced() == [job.id]
    announce_worker(redis)
    reconciler.reconcile()
    assert sent(redis) == [(job.id, 0)]
    assert jobs.store.unannounced() == []


def test_a_job_whose_last_worker_died_before_ending_it_is_ended(jobs: Jobs, redis: Redis, reconciler: Reconciler) -> None:
    job = submit(jobs, [["a"], ["b"]])
    for shard in (0, 1):
        jobs.index.committed(job.id, shard, commit(jobs, job.id, shard))
    reconciler.reconcile()
    assert jobs.store.done(job.id) is not None
    assert jobs.index.running() == []


def test_a_commit_that_redis_never_heard_of_is_not_lost(jobs: Jobs, redis: Redis, reconciler: Reconciler) -> None:
    job = submit(jobs, [["a"], ["b"]])
    commit(jobs, job.id, 0)  # and the worker dies before it tells Redis
    announce_worker(redis)
    reconciler.reconcile()
    # It is sent again; the worker that gets it sees the output and only tells Redis.
    assert sent(redis) == [(job.id, 0), (job.id, 1)]


def test_what_could_not_be_sent_is_pending_again(
    jobs: Jobs, redis: Redis, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(jobs, [["a"]] * 3)
    announce_worker(redis)
    calls = 0

    def broken(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OperationalError("away")

    with monkeypatch.context() as patch:
        patch.setattr(module.bulk, "send", broken)
        with pytest.raises(OperationalError):
            reconciler.deal("m")
    assert jobs.index.in_flight("m") == {(job.id, 0)}
    reconciler.deal("m")
    assert sent(redis) == [(job.id, 1), (job.id, 2)]


def test_broken_uploads_are_removed_and_fresh_ones_are_not(
    jobs: Jobs, redis: Redis, reconciler: Reconciler, storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, old = new_job_id(), new_job_id()
    for job_id in (fresh, old):
        jobs.store.put_input(job_id, 0, input_table(["a"]))
    monkeypatch.setattr(jobs.store, "last_written_at", lambda job_id: time.time() - (2 * 86_400 if job_id == old else 0))
    reconciler.reconcile()
    assert storage.list("jobs") == [fresh]


def test_one_worker_leads_and_another_follows_when_it_stops(jobs: Jobs, redis: Redis, celery: Celery, tmp_path: Path) -> None:
    first, second = (make(jobs, redis, celery, tmp_path, name) for name in ("w1", "w2"))
    first.start()
    wait_until(lambda: redis.get(keys.lock("leader")) == b"w1")
    second.start()
    announce_worker(redis)
    job = submit(jobs, [["a"]])
    wait_until(lambda: sent(redis) == [(job.id, 0)])
    first.stop()
    wait_until(lambda: redis.get(keys.lock("leader")) == b"w2")
    second.stop()
    assert redis.get(keys.lock("leader")) is None


def test_the_leader_removes_files_whose_time_has_come(jobs: Jobs, reconciler: Reconciler) -> None:
    files = FileStore(jobs.store.storage)
    with files.create(owner="o", purpose="batch", expires_after_s=-1) as old, files.create(owner="o", purpose="batch") as new:
        old.write(b"x")
        new.write(b"x")
    reconciler.reconcile()
    assert jobs.store.storage.list("files") == [new.file.id]


def test_a_batch_of_which_nothing_is_left_to_run_is_dealt_its_last_step_and_no_job_is(jobs: Jobs) -> None:
    def pending(**fields: Any) -> list[int]:
        job = submit(jobs, [["a"]], **fields)
        jobs.cancel(jobs.view(job.id))
        return [step for one in jobs.index.for_dealing([job.id], job.model, set(), 9) for step in one.pending]

    assert pending(kind="batch", batch={"expires_at": 2**40}) == [FINALIZE]
    assert pending() == []
