"""What is left of all jobs together, which says how many workers it is worth."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from shared import metrics
from shared.jobs.backlog import Backlog, UnfinishedJob, add_up_backlog, estimated_tokens
from shared.jobs.index import JobIndex
from shared.jobs.job import Job, Source
from shared.jobs.jobs import Jobs
from shared.jobs.store import JobStore
from shared.storage import DirectoryStorage
from tests.support.jobs import submit


def job(**fields: Any) -> Job:
    return Job(**({"id": "job_1", "owner": "o", "model": "m", "created_at": 1.0, "shards": (10, 10)} | fields))


def unfinished(**fields: Any) -> UnfinishedJob:
    said = {
        "created_at": 1.0,
        "is_paused": False,
        "is_prepared": True,
        "shards": 4,
        "committed": 0,
        "in_flight": 0,
        "tokens": 400,
    }
    return UnfinishedJob(**(said | fields))


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"input_bytes": 4000}, 1000),
        ({"input_bytes": 0}, 20),  # a token a row at the least
        ({"source": Source(url="x", format=None, shard_tokens=500.0)}, 1000),
        ({"source": Source(url="x", format=None, shard_tokens=500.0), "shards": (), "is_prepared": False}, 500),
        ({"shards": ()}, 1),
    ],
)
def test_tokens_are_estimated_before_anybody_reads_the_input(fields: dict[str, Any], tokens: int) -> None:
    assert estimated_tokens(job(**fields)) == tokens


def test_what_is_committed_waits_no_longer_and_a_paused_job_not_at_all() -> None:
    assert unfinished(committed=1).waiting_tokens == 300
    assert unfinished(is_paused=True).waiting_tokens == 0
    assert unfinished(shards=0, is_prepared=False).waiting_tokens == 400


def test_jobs_are_counted_by_status_and_shards_by_state() -> None:
    backlog = add_up_backlog(
        [
            unfinished(created_at=5.0),
            unfinished(in_flight=2, created_at=3.0),
            unfinished(committed=3, in_flight=2),  # one of them was committed a moment ago
            unfinished(is_paused=True, created_at=0.5),
            unfinished(shards=0, is_prepared=False, in_flight=1),
        ]
    )

    assert backlog.jobs == {"queued": 1, "in_progress": 2, "paused": 1, "validating": 1}
    assert (backlog.pending_shards, backlog.in_flight_shards, backlog.committed_shards) == (10, 3, 3)
    assert backlog.oldest_created_at == 1.0


def test_redis_tells_the_backlog_without_reading_a_shard(redis: Redis, storage: DirectoryStorage) -> None:
    jobs = Jobs(JobStore(storage), JobIndex(redis))
    assert jobs.index.backlog() == Backlog()
    running = submit(jobs, [["a"], ["b"], ["c"]], input_bytes=1200)
    stopped = submit(jobs, [["d"]], input_bytes=400)
    jobs.index.lease(running.id, "m", 1, "w1", 60)
    jobs.cancel(jobs.view(stopped.id))

    backlog = jobs.index.backlog()

    assert (backlog.jobs, backlog.pending_shards, backlog.in_flight_shards) == ({"in_progress": 1}, 2, 1)
    assert backlog.waiting_tokens == 300


def test_a_shard_that_nobody_heard_of_again_is_counted_as_lost(redis: Redis, storage: DirectoryStorage) -> None:
    index, before = JobIndex(redis), metrics.SHARDS_LOST.value("m")
    index.sent("m", [("job_1", 0), ("job_1", 1)], lost_at=1.0, positions={})

    index.in_flight("m")
    index.in_flight("m")

    assert metrics.SHARDS_LOST.value("m") - before == 2


def test_a_look_at_how_jobs_stand_leaves_a_lost_shard_to_the_leader(redis: Redis, storage: DirectoryStorage) -> None:
    jobs, before = Jobs(JobStore(storage), JobIndex(redis)), metrics.SHARDS_LOST.value("m")
    running = submit(jobs, [["a"], ["b"]])
    jobs.index.lease(running.id, "m", 1, "w1", 60)
    jobs.index.sent("m", [(running.id, 0)], lost_at=1.0, positions={})

    (standing,) = jobs.index.standings([running.id])
    seen = metrics.SHARDS_LOST.value("m") - before
    jobs.index.in_flight("m")

    assert (standing.in_flight, seen, metrics.SHARDS_LOST.value("m") - before) == (1, 0, 1)
