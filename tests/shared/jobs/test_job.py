"""What follows from a job's manifest, marks and committed shards."""

from __future__ import annotations

import pytest

from shared.jobs.job import Counts, Done, Job, JobView, Marks, Status, add_up
from shared.records import ShardCounts

JOB = Job(id="job_1", owner="me", model="m", created_at=100.0, shards=(10, 10, 5))
DONE = Done(status="completed", finished_at=160.0, counts=Counts(total=25, completed=24, failed=1), started_at=110.0)


def shard(rows: int = 10, failed: int = 0, started_at: float = 110.0, finished_at: float = 120.0) -> ShardCounts:
    return ShardCounts(
        rows=rows, failed=failed, truncated=1, tokens=50, started_at=started_at, finished_at=finished_at, deduplicated=2
    )


def view(committed: dict[int, ShardCounts] | None = None, *, is_started: bool = False, **marks: object) -> JobView:
    return JobView(job=JOB, marks=Marks(**marks), committed=committed or {}, is_started=is_started)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "status"),
    [
        (view(), "queued"),
        (view(is_started=True), "in_progress"),
        (view({0: shard()}), "in_progress"),
        (view({0: shard()}, paused_at=1.0), "paused"),
        (view(paused_at=1.0), "paused"),
        (view({0: shard()}, paused_at=1.0, cancelled_at=2.0), "cancelled"),
        (view({0: shard()}, cancelled_at=2.0, done=DONE), "completed"),
        (view(paused_at=1.0, done=DONE), "completed"),
        (view(done=DONE.model_copy(update={"status": "failed"})), "failed"),
    ],
)
def test_the_status_follows_from_marks_and_shards(seen: JobView, status: Status) -> None:
    assert seen.status == status


def test_counts_add_up_over_committed_shards() -> None:
    assert add_up(JOB, {0: shard(10, failed=3), 2: shard(5)}) == Counts(
        total=25, completed=12, failed=3, truncated=2, deduplicated=4, tokens=100
    )
    assert add_up(JOB, {}) == Counts(total=25)
    assert view({0: shard()}).counts == Counts(total=25, completed=10, truncated=1, deduplicated=2, tokens=50)


def test_the_counts_of_a_finished_job_are_those_of_its_end() -> None:
    assert view({0: shard()}, done=DONE).counts == DONE.counts


def test_start_and_end_are_told_once_known() -> None:
    assert view().started_at is view().finished_at is None
    assert view({0: shard(started_at=115), 1: shard(started_at=111)}).started_at == 111
    assert view({0: shard()}, done=DONE).started_at == 110
    assert view(done=DONE).finished_at == 160
    assert view(cancelled_at=130.0).finished_at == 130


def test_the_rate_is_that_of_the_last_minute() -> None:
    assert view().rows_per_second(200) is None
    assert view({0: shard()}).rows_per_second(120) == pytest.approx(1.0)
    assert view({0: shard(), 1: shard(started_at=120, finished_at=130)}).rows_per_second(130) == pytest.approx(1.0)
    # Nothing lately: nothing is known.
    assert view({0: shard()}).rows_per_second(1000) is None
    # A shard that began before the window counts for the window's length at most.
    assert view({0: shard(started_at=0, finished_at=990)}).rows_per_second(1000) == pytest.approx(10 / 60)


def test_the_rate_of_a_finished_job_is_that_of_its_whole_run() -> None:
    assert view(done=DONE).rows_per_second(1e9) == pytest.approx(25 / 50)
    empty = DONE.model_copy(update={"counts": Counts(total=0)})
    assert view(done=empty).rows_per_second(1e9) is None


def test_clocks_that_disagree_give_no_negative_rate() -> None:
    rate = view({0: shard(started_at=200, finished_at=210)}).rows_per_second(150)
    assert rate is not None
    assert rate > 0


def test_the_eta_is_what_is_left_over_the_rate() -> None:
    assert view({0: shard()}).eta_seconds(120) == pytest.approx(15)
    assert view().eta_seconds(120) is None
    assert view({0: shard()}, paused_at=1.0).eta_seconds(120) is None
    assert view({0: shard()}, done=DONE).eta_seconds(120) is None
