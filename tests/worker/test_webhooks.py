"""The end of a job is told to its webhook: signed, until it is heard, whatever is lost on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from redis import Redis

from shared import keys
from shared.jobs.finishing import fail, finish_cancelled
from shared.jobs.index import JobIndex
from shared.jobs.job import Attempt, Counts, Delivery, Done, Job
from shared.jobs.jobs import Jobs
from shared.jobs.store import JobStore
from shared.settings import Settings
from shared.storage import DirectoryStorage
from shared.webhooks import next_try_at
from tests.support.jobs import submit
from tests.support.receiver import Receiver, receiving
from tests.support.waiting import wait_until
from worker.webhooks import Webhooks

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@pytest.fixture
def jobs(storage: DirectoryStorage, redis: Redis) -> Jobs:
    return Jobs(JobStore(storage), JobIndex(redis))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def webhooks(jobs: Jobs, tmp_path: Path) -> Iterator[Webhooks]:
    made = make(jobs, tmp_path)
    yield made
    made.stop()


def make(jobs: Jobs, tmp_path: Path, **given: Any) -> Webhooks:
    chosen = {"data_dir": tmp_path, "webhook_secret": SECRET, "webhook_allow_private": True} | given
    return Webhooks(jobs, Settings(**chosen), "w1")


def ended(jobs: Jobs, url: str, status: Any = "completed", finished_at: float | None = None) -> Job:
    job = submit(jobs, [["a"]], webhook_url=url)
    at = time.time() - 1 if finished_at is None else finished_at
    jobs.store.mark_done(job, Done(status=status, finished_at=at, counts=Counts(total=1, completed=1)))
    jobs.announce(job.id)
    return job


def look(webhooks: Webhooks) -> None:
    for delivery in webhooks.look():
        delivery.result(20)


def is_due(redis: Redis, job: Job) -> float | None:
    at: Any = redis.zscore(keys.WEBHOOKS, job.id)
    return None if at is None else float(at)


def test_a_completed_job_is_told_signed_so_that_the_openai_client_accepts_it(
    jobs: Jobs, redis: Redis, webhooks: Webhooks, receiver: Receiver
) -> None:
    job = ended(jobs, receiver.url)
    look(webhooks)
    (got,) = receiver.received
    event: Any = OpenAI(api_key="unused", webhook_secret=SECRET).webhooks.unwrap(got.body, got.headers)
    assert event.type == "embedding.job.completed"
    assert (got.json["data"]["id"], got.json["data"]["status"]) == (job.id, "completed")
    assert got.headers["webhook-id"] == got.json["id"]
    assert got.headers["content-type"] == "application/json"
    assert jobs.view(job.id).delivery == jobs.store.delivery(job)
    assert jobs.store.delivery(job).delivered_at is not None
    assert is_due(redis, job) is None
    look(webhooks)
    assert len(receiver.received) == 1


def test_failure_and_cancelling_are_told_too(jobs: Jobs, webhooks: Webhooks, receiver: Receiver) -> None:
    failed, cancelled = (submit(jobs, [["a"]], webhook_url=receiver.url) for _ in range(2))
    fail(jobs, jobs.view(failed.id), "not Parquet")
    finish_cancelled(jobs, jobs.cancel(jobs.view(cancelled.id)))
    look(webhooks)
    told = {one.json["data"]["id"]: one.json["type"] for one in receiver.received}
    assert told == {failed.id: "embedding.job.failed", cancelled.id: "embedding.job.cancelled"}


def test_a_job_that_runs_or_wants_no_webhook_is_not_told(
    jobs: Jobs, redis: Redis, webhooks: Webhooks, receiver: Receiver
) -> None:
    submit(jobs, [["a"]], webhook_url=receiver.url)
    quiet = submit(jobs, [["a"]])
    fail(jobs, jobs.view(quiet.id), "x")
    look(webhooks)
    assert (receiver.received, redis.zcard(keys.WEBHOOKS)) == ([], 0)


def test_it_is_tried_again_until_it_is_heard_with_the_same_event(
    jobs: Jobs, redis: Redis, webhooks: Webhooks, receiver: Receiver
) -> None:
    receiver.answers = [500, 302, 200]
    job = ended(jobs, receiver.url)
    for tries in (1, 2, 3):
        look(webhooks)
        assert len(receiver.received) == tries
        delivery = jobs.store.delivery(job)
        if tries < 3:
            assert (is_due(redis, job) or 0) > time.time() + 1
            look(webhooks)  # too early
            assert len(receiver.received) == tries
            # Time goes by.
            moved = delivery.model_copy(
                update={"attempts": tuple(one.model_copy(update={"at": one.at - 60}) for one in delivery.attempts)}
            )
            jobs.store.put_delivery(job, moved)
            jobs.announce(job.id)
    assert [attempt.status for attempt in jobs.store.delivery(job).attempts] == [500, 302, 200]
    assert jobs.store.delivery(job).delivered_at is not None
    assert len({(one.body, one.headers["webhook-id"]) for one in receiver.received}) == 1


def test_it_is_given_up_in_the_end_and_the_job_says_so(jobs: Jobs, redis: Redis, webhooks: Webhooks, receiver: Receiver) -> None:
    receiver.answers = [503]
    job = ended(jobs, receiver.url)
    jobs.store.put_delivery(job, Delivery(attempts=tuple(Attempt(at=1.0, error="timeout") for _ in range(10))))
    jobs.announce(job.id)
    look(webhooks)
    delivery = jobs.store.delivery(job)
    assert (len(delivery.attempts), delivery.given_up_at is not None) == (11, True)
    assert is_due(redis, job) is None


def test_what_was_not_told_is_told_after_redis_was_wiped_and_what_was_told_is_not(
    jobs: Jobs, redis: Redis, webhooks: Webhooks, receiver: Receiver
) -> None:
    told = ended(jobs, receiver.url)
    look(webhooks)
    untold, unlucky = (ended(jobs, receiver.url) for _ in range(2))
    jobs.store.put_delivery(unlucky, Delivery(attempts=(Attempt(at=time.time(), status=500),)))
    redis.flushall()
    for job in (told, untold, unlucky):  # as the leader does
        jobs.announce(job.id)
    assert is_due(redis, told) is None
    assert is_due(redis, unlucky) == next_try_at(jobs.from_storage(unlucky.id))
    look(webhooks)
    assert [one.json["data"]["id"] for one in receiver.received] == [told.id, untold.id]


def test_redis_may_be_wrong_about_when_it_is_due(jobs: Jobs, redis: Redis, webhooks: Webhooks, receiver: Receiver) -> None:
    job = ended(jobs, receiver.url)
    jobs.store.put_delivery(job, Delivery(attempts=(Attempt(at=time.time(), status=500),)))
    look(webhooks)
    assert receiver.received == []
    assert is_due(redis, job) == next_try_at(jobs.from_storage(job.id))


def test_a_worker_killed_over_a_delivery_leaves_it_to_the_next(
    jobs: Jobs, redis: Redis, webhooks: Webhooks, receiver: Receiver
) -> None:
    job = ended(jobs, receiver.url)
    assert jobs.index.take_webhooks(10, 60) == [job.id]  # and then it dies
    look(webhooks)
    assert receiver.received == []
    redis.zadd(keys.WEBHOOKS, {job.id: time.time() - 1})  # a minute goes by
    look(webhooks)
    assert len(receiver.received) == 1


def test_a_private_address_is_refused_at_delivery_and_the_job_says_why(jobs: Jobs, tmp_path: Path, receiver: Receiver) -> None:
    careful = make(jobs, tmp_path, webhook_allow_private=False)
    job = ended(jobs, receiver.url)
    look(careful)
    careful.stop()
    assert receiver.received == []
    assert [attempt.error for attempt in jobs.store.delivery(job).attempts] == ["private_address"]


def test_a_job_deleted_meanwhile_is_forgotten_and_nothing_of_it_reappears(
    jobs: Jobs, redis: Redis, webhooks: Webhooks, receiver: Receiver, storage: DirectoryStorage
) -> None:
    before = ended(jobs, receiver.url)
    jobs.delete(jobs.view(before.id))
    redis.zadd(keys.WEBHOOKS, {before.id: 1.0})  # as if it had been taken just then
    during = ended(jobs, receiver.url)
    receiver.before_answer = lambda: jobs.delete(jobs.view(during.id))
    look(webhooks)
    assert [one.json["data"]["id"] for one in receiver.received] == [during.id]
    assert storage.list("jobs") == []
    assert (redis.zcard(keys.WEBHOOKS), redis.exists(keys.job(during.id))) == (0, 0)


def test_only_the_leader_tells(jobs: Jobs, redis: Redis, webhooks: Webhooks, receiver: Receiver) -> None:
    jobs.index.lead("w2", 30)
    ended(jobs, receiver.url)
    webhooks.start()
    time.sleep(1.2)  # two looks
    assert receiver.received == []
    jobs.index.stop_leading("w2")
    jobs.index.lead("w1", 30)
    wait_until(lambda: receiver.received)


def test_neither_the_url_nor_the_secret_is_logged(
    jobs: Jobs, webhooks: Webhooks, receiver: Receiver, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    receiver.answers = [500]
    ended(jobs, receiver.url + "?token=hush")
    ended(jobs, "http://127.0.0.1:1/?token=hush")
    look(webhooks)
    out = capsys.readouterr()
    assert "not delivered" in out.out + out.err + caplog.text
    assert "hush" not in out.out + out.err + caplog.text
    assert SECRET[6:] not in out.out + out.err + caplog.text
