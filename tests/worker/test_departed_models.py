"""A model that left the configuration: its jobs wait, its batches still end, and Celery takes from other queues."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from celery import Celery
from redis import Redis

from shared import bulk, keys
from shared.files import FileStore
from shared.jobs.index import JobIndex
from shared.jobs.job import FINALIZE
from shared.jobs.jobs import Jobs
from shared.jobs.store import JobStore
from shared.models import ModelRegistry
from shared.presence import PresenceBoard
from shared.settings import Settings
from shared.storage import DirectoryStorage
from tests.support.engine import EngineDouble
from tests.support.jobs import submit
from tests.worker.test_finalizing import Bench
from tests.worker.test_reconciler import announce_worker, sent
from worker.bulk import ShardRunner
from worker.finalizing import Finalizer
from worker.queues import BulkQueues
from worker.reconciler import Reconciler


@pytest.fixture
def jobs(storage: DirectoryStorage, redis: Redis) -> Jobs:
    return Jobs(JobStore(storage), JobIndex(redis))


def test_a_shard_of_a_departed_model_is_put_off_and_no_row_fails(jobs: Jobs, tmp_path: Path) -> None:
    job = submit(jobs, ["a text"])
    runner = ShardRunner(jobs, cast(Any, EngineDouble()), ModelRegistry({}), Settings(data_dir=tmp_path), "w1")

    runner.run(job.id, 0)

    assert jobs.store.counts(job.id, 0) is None
    assert jobs.from_storage(job.id).status != "completed"


def test_a_cancelled_batch_of_a_departed_model_ends_through_another_models_queue(
    storage: DirectoryStorage, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    bench = Bench(storage, redis, tmp_path)
    job = bench.submit({"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "a"}})
    bench.jobs.cancel(bench.jobs.view(job.id))
    settings = Settings(data_dir=tmp_path)
    celery = bulk.make_celery(redis_url, ["other"], shards_at_once=1)
    leader = Reconciler(bench.jobs, PresenceBoard(redis), celery, lambda: ["other"], settings, "w1")

    leader.reconcile()
    leader.reconcile()

    assert sent(redis, "other") == [(job.id, FINALIZE)], "once, until it counts as lost"
    registry = ModelRegistry({})
    steps = {FINALIZE: Finalizer(bench.jobs, FileStore(storage), registry, settings)}
    ShardRunner(bench.jobs, cast(Any, bench.engine), registry, settings, "w1", steps).run(job.id, FINALIZE)
    assert bench.ended(job).status == "cancelled"
    celery.close()


def test_a_batch_whose_model_is_served_goes_through_its_own_queue(
    storage: DirectoryStorage, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    bench = Bench(storage, redis, tmp_path)
    job = bench.submit({}, expires_at=int(time.time()) - 1)
    announce_worker(redis)
    celery = bulk.make_celery(redis_url, ["m", "other"], shards_at_once=1)

    Reconciler(bench.jobs, PresenceBoard(redis), celery, lambda: ["other"], Settings(data_dir=tmp_path), "w1").reconcile()

    assert sent(redis, "other") == []
    assert not bench.done(job)
    celery.close()


class Consumer:
    """What BulkQueues uses of Celery's consumer; runs at once what is to run soon."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.is_connected = True

    def call_soon(self, call: Callable[[], None]) -> None:
        call()

    def add_task_queue(self, name: str) -> None:
        if not self.is_connected:
            raise AttributeError("no channel")
        self.calls.append(("add", name))

    def cancel_task_queue(self, name: str) -> None:
        self.calls.append(("cancel", name))


@pytest.fixture
def celery() -> Celery:
    return bulk.make_celery("redis://127.0.0.1:1/0", ["a", "b"], shards_at_once=1)


def test_the_queues_follow_the_models(celery: Celery) -> None:
    queues, consumer = BulkQueues(celery, ["a", "b"]), Consumer()
    queues.take_from(["a", "c"])  # before there is a consumer
    queues.consumer_ready(consumer)
    queues.take_from(["a", "c"])
    queues.take_from(["b"])

    queue = keys.bulk_queue
    assert consumer.calls == [
        ("add", queue("c")),
        ("cancel", queue("b")),
        ("add", queue("b")),
        ("cancel", queue("a")),
        ("cancel", queue("c")),
    ]
    assert celery.amqp.queues[queue("c")].exchange == celery.amqp.queues[queue("a")].exchange


def test_a_change_while_celery_is_not_connected_is_made_up_for(celery: Celery) -> None:
    queues, consumer = BulkQueues(celery, ["a"]), Consumer()
    queues.consumer_ready(consumer)
    consumer.is_connected = False
    queues.take_from(["a", "c"])
    consumer.is_connected = True
    queues.take_from(["a", "c"])

    assert consumer.calls == [("add", keys.bulk_queue("c"))]
