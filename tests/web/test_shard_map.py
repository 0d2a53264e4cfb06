"""The shard map: a letter for each run of equal shards."""

from __future__ import annotations

import time

from shared.jobs.job import Counts, Done, Job, JobView, Marks
from shared.records import ShardCounts
from web.shard_map import shard_map


def job(shards: int, rounds: tuple[int, ...] = ()) -> Job:
    return Job(id="job_a", owner="public", model="m", created_at=1.0, shards=(10,) * shards, rounds=rounds)


def counts(failed: int = 0) -> ShardCounts:
    now = time.time()
    return ShardCounts(rows=10, failed=failed, truncated=0, tokens=5, started_at=now - 1, finished_at=now)


def test_each_state_has_its_letter_and_neighbours_are_counted() -> None:
    view = JobView(job=job(8), marks=Marks(), committed={0: counts(), 1: counts(), 2: counts(failed=1)})
    told = shard_map(view, sent={3, 4, 5}, running={3})
    assert told["runs"] == "d2f1r1s2w2"
    assert told["counts"] == {"waiting": 2, "sent": 2, "running": 1, "done": 2, "failed": 1}


def test_a_hundred_thousand_shards_are_a_short_answer() -> None:
    view = JobView(job=job(100_000), marks=Marks(), committed={shard: counts() for shard in range(60_000)})
    assert shard_map(view, sent={60_000}, running=())["runs"] == "d60000s1w39999"


def test_those_of_a_completed_job_are_done_also_when_their_counts_are_forgotten() -> None:
    done = Done(status="completed", finished_at=2.0, counts=Counts(total=30, completed=30))
    assert shard_map(JobView(job=job(3), marks=Marks(done=done)), sent={1}, running={1})["runs"] == "d3"


def test_those_of_a_cancelled_job_never_run_and_storage_tells_which_were_done() -> None:
    done = Done(status="cancelled", finished_at=2.0, counts=Counts(total=30, completed=10))
    assert shard_map(JobView(job=job(3), marks=Marks(done=done)), sent={1}, running={1}, stored=[0])["runs"] == "d1w2"


def test_retries_stand_behind_the_shards_of_the_input() -> None:
    told = shard_map(JobView(job=job(4, rounds=(1,)), marks=Marks()), sent=(), running=())
    assert (told["total"], told["retried_from"]) == (4, 3)
