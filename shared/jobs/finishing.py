"""The end of a job: whoever sees nothing pending reads what storage holds, adds it up and creates done.json, once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from redis.exceptions import RedisError

from shared import metrics
from shared.errors import NotFound
from shared.jobs.job import Done, Job, JobView, Marks, add_up
from shared.jobs.jobs import Jobs
from shared.logs import get_logger
from shared.records import ShardCounts

logger = get_logger(__name__)


def finish(jobs: Jobs, job: Job) -> bool:
    """End the job if every shard is committed. Redis may only say that it is worth a look; storage decides."""
    try:
        if jobs.index.is_unfinished(job.id):
            return False  # so it is after most shards, and said in a few bytes
    except RedisError:
        pass
    try:
        view = jobs.view(job.id)
    except NotFound:
        return False
    job = view.job  # with the retry rounds of now
    if view.marks.done is not None or not job.is_prepared or len(view.committed) < len(job.shards):
        return False
    if job.kind == "batch":
        return False  # its end is a step of its own, dealt like a shard
    committed = all_committed(jobs, job)
    if committed is None:
        return False
    # Asked of storage: Redis may not have heard of it, and who cancelled was told that the job is cancelled.
    cancelled_at = jobs.store.marks(job.id).cancelled_at
    if cancelled_at is not None:
        return end(jobs, view, _done("cancelled", job, committed, cancelled_at))
    return end(jobs, view, _done("completed", job, committed, time.time()))


def all_committed(jobs: Jobs, job: Job) -> dict[int, ShardCounts] | None:
    """Every shard's counts, as storage has them. None if one is damaged or lost: those are pending again."""
    committed = jobs.store.committed_counts(job.id)
    missing = [shard for shard in range(len(job.shards)) if shard not in committed]
    if not missing:
        return committed
    logger.warning("outputs missing", job=job.id, shards=len(missing))
    try:
        jobs.index.uncommitted(job.id, missing)
    except RedisError:
        pass  # it is found again by the next look
    return None


def finish_cancelled(jobs: Jobs, view: JobView) -> bool:
    """End a cancelled job of which no shard is in flight any more; what was committed stays."""
    committed = jobs.store.committed_counts(view.job.id)
    return end(jobs, view, _done("cancelled", view.job, committed, view.marks.cancelled_at or time.time()))


def fail(jobs: Jobs, view: JobView, reason: str, errors: Sequence[dict[str, str | int | None]] = ()) -> bool:
    """End a job whose input as a whole cannot be used."""
    now = time.time()
    counts = add_up(view.job, {})
    return end(jobs, view, Done(status="failed", finished_at=now, counts=counts, reason=reason, errors=tuple(errors)))


def _done(status: Literal["completed", "cancelled"], job: Job, committed: dict[int, ShardCounts], at: float) -> Done:
    started_at = min((counts.started_at for counts in committed.values()), default=None)
    return Done(status=status, finished_at=at, counts=add_up(job, committed), started_at=started_at)


def end(jobs: Jobs, view: JobView, done: Done) -> bool:
    """Write the end, and tell Redis. False if the job was deleted."""
    if not jobs.store.exists(view.job.id):
        return False
    done = jobs.store.mark_done(view.job, done)
    metrics.JOBS_FINISHED.inc(1, done.status)
    logger.info("job finished", job=view.job.id, status=done.status, rows=done.counts.total, failed=done.counts.failed)
    marks = Marks(cancelled_at=view.marks.cancelled_at, paused_at=None, done=done)
    try:
        jobs.tell(view.job, marks)
    except RedisError as error:
        logger.warning("Redis not told, it is away", error=type(error).__name__)
    return True
