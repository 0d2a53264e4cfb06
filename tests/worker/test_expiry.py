"""Finished jobs go when they are old; what stands for nothing any more goes too."""

from __future__ import annotations

import time

import pytest
from redis import Redis

from shared import keys
from shared.errors import NotFound
from shared.jobs.index import JobIndex
from shared.jobs.job import Counts, Done, Job
from shared.jobs.jobs import Jobs
from shared.jobs.store import JobStore
from shared.storage import DirectoryStorage
from tests.support.jobs import submit
from worker import expiry as module
from worker.expiry import Expiry

DAY_S = 86_400.0


@pytest.fixture
def jobs(storage: DirectoryStorage, redis: Redis) -> Jobs:
    return Jobs(JobStore(storage), JobIndex(redis))


def finished(jobs: Jobs, days_ago: float, **fields: str) -> Job:
    job = submit(jobs, [["a"]], **fields)
    at = time.time() - days_ago * DAY_S
    jobs.store.mark_done(job, Done(status="completed", finished_at=at, counts=Counts(total=1, completed=1)))
    jobs.announce(job.id)
    return job


def test_finished_jobs_are_deleted_when_they_are_old_and_no_others(jobs: Jobs, storage: DirectoryStorage) -> None:
    old, fresh, running = finished(jobs, 31), finished(jobs, 29), submit(jobs, [["a"]])
    Expiry(jobs, 30 * DAY_S).expire()
    assert set(storage.list("jobs")) == {fresh.id, running.id}
    assert old.id not in jobs.index.newest_of("o", None, 10)
    with pytest.raises(NotFound):
        jobs.view(old.id)


def test_zero_keeps_jobs_for_ever(jobs: Jobs) -> None:
    job = finished(jobs, 10_000)
    Expiry(jobs, 0).expire()
    assert jobs.view(job.id).status == "completed"


def test_after_a_wipe_the_index_still_tells_what_is_old(jobs: Jobs, redis: Redis, storage: DirectoryStorage) -> None:
    job = finished(jobs, 31)
    redis.flushall()
    jobs.announce(job.id)
    Expiry(jobs, 30 * DAY_S).expire()
    assert storage.list("jobs") == []


def test_storage_has_the_last_word_on_what_is_old(jobs: Jobs, redis: Redis) -> None:
    job, running = finished(jobs, 1), submit(jobs, [["a"]])
    redis.zadd(keys.JOBS_FINISHED, {job.id: 1.0, running.id: 1.0, "job_gone": 1.0})
    Expiry(jobs, 30 * DAY_S).expire()
    assert jobs.from_storage(job.id).status == "completed"
    assert jobs.from_storage(running.id).status == "queued"
    assert jobs.index.finished_before(time.time() - 2 * DAY_S, 10) == []


def test_many_old_jobs_go_page_by_page_and_not_all_at_one_look(
    jobs: Jobs, storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    for _ in range(5):
        finished(jobs, 31)
    expiry = Expiry(jobs, 30 * DAY_S)
    with monkeypatch.context() as hurried:
        hurried.setattr(module, "BUDGET_S", 1e-9)
        expiry.expire()
        assert len(storage.list("jobs")) >= 4
    expiry.expire()
    assert storage.list("jobs") == []


def test_an_idempotency_key_goes_with_its_job(jobs: Jobs, storage: DirectoryStorage) -> None:
    finished(jobs, 31, idempotency_key="a" * 64)
    Expiry(jobs, 30 * DAY_S).expire()
    assert storage.list("idempotency/o") == []


def test_keys_whose_job_never_came_to_be_are_removed_some_at_a_time(
    jobs: Jobs, storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEYS_A_SWEEP", 2)
    submit(jobs, [["a"]], idempotency_key="4" * 64)
    for digit in "1235":
        job = Job(id=f"job_{digit}", owner="o", model="m", created_at=1, shards=(1,), idempotency_key=digit * 64)
        storage.write(f"idempotency/o/{digit * 64}.json", job.model_dump_json().encode())
    storage.write(f"idempotency/o/{'6' * 64}.json", b"{damaged")
    expiry = Expiry(jobs, 0)
    expiry.remove_leftover_keys(time.time() - 60)
    assert len(storage.list("idempotency/o")) == 6  # all are fresh: their manifests may be on the way
    expiry = Expiry(jobs, 0)
    for left in (4, 3, 1):
        expiry.remove_leftover_keys(time.time() + 60)
        assert len(storage.list("idempotency/o")) == left
    assert storage.list("idempotency/o") == [f"{'4' * 64}.json"]
