"""Jobs: what web and worker do with jobs, storage first and Redis after it, best effort; the one place that knows both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import RedisError

from shared.errors import Conflict, NotFound, RedisAway
from shared.jobs.index import JobIndex
from shared.jobs.job import FINISHED, Job, JobView, Marks, Status
from shared.jobs.store import JobStore
from shared.logs import get_logger

logger = get_logger(__name__)
T = TypeVar("T")


class Jobs:
    """Methods raise StorageAway if storage cannot be used, and work without Redis unless they say otherwise."""

    def __init__(self, store: JobStore, index: JobIndex) -> None:
        self.store = store
        self.index = index

    def submit(self, job: Job) -> Job:
        """Make the job exist and tell the workers; its input lies in storage already.

        The job that exists in the end: with an idempotency key it may be an earlier one, and the input is discarded then.
        """
        existing = self.store.put_job(job)
        if existing.id != job.id:
            self.store.discard(job.id)
            return existing
        self.announce(job.id)
        return job

    def announce(self, job_id: str) -> bool:
        """Tell Redis all that storage knows of the job. False if Redis is away: the leader does it later."""
        try:
            self._put(self.from_storage(job_id))
        except RedisError as error:
            logger.warning("job not announced, Redis is away", job=job_id, error=type(error).__name__)
            return False
        except NotFound:
            pass  # deleted
        self.store.announced(job_id)
        return True

    def view(self, job_id: str, owner: str | None = None) -> JobView:
        """A job as it stands. Raises NotFound if there is none, or if it is not the owner's (None: anybody's)."""
        try:
            view = self.index.view(job_id)
        except RedisError:
            view = None
        if view is None:
            view = self.from_storage(job_id)
            found = view
            self._quietly(lambda: self._put(found))
        if owner is not None and view.job.owner != owner:
            raise NotFound(f"no such job: {job_id}")
        return view

    def from_storage(self, job_id: str) -> JobView:
        """The truth. Raises NotFound."""
        job = self.store.get(job_id)
        marks = self.store.marks(job_id)
        committed = {}
        if marks.done is None:
            for shard in self.store.committed(job_id):
                counts = self.store.counts(job_id, shard)
                if counts is not None:
                    committed[shard] = counts
        return JobView(job=job, marks=marks, committed=committed)

    def list(self, owner: str, *, status: Status | None, after: str | None, limit: int) -> tuple[list[JobView], bool]:
        """An owner's jobs, newest first, and whether there are more. Raises RedisAway."""
        found: list[JobView] = []
        try:
            while len(found) <= limit:
                ids = self.index.newest_of(owner, after, max(limit + 1, 100))
                if not ids:
                    break
                for job_id, view in zip(ids, self.index.views(ids), strict=True):
                    after = job_id
                    try:
                        seen = view if view is not None else self.view(job_id)
                    except NotFound:
                        continue
                    if status is None or seen.status == status:
                        found.append(seen)
        except RedisError as error:
            raise RedisAway("jobs cannot be listed while Redis is away", retry_after_s=2) from error
        return found[:limit], len(found) > limit

    def cancel(self, view: JobView) -> JobView:
        """Durably; running batches end, the rest does not begin. A cancelled job stays as it is. Raises Conflict."""
        if view.status in FINISHED and view.status != "cancelled":
            raise Conflict(f"the job is {view.status}; it can no longer be cancelled")
        self.store.mark_cancelled(view.job.id)
        return self._remark(view)

    def pause(self, view: JobView) -> JobView:
        """Durably; nothing new begins until `resume`. Raises Conflict."""
        if view.status in FINISHED:
            raise Conflict(f"the job is {view.status}; it can no longer be paused")
        self.store.mark_paused(view.job.id)
        return self._remark(view)

    def resume(self, view: JobView) -> JobView:
        """The job goes on where it was. Raises Conflict."""
        if view.status in FINISHED:
            raise Conflict(f"the job is {view.status}; there is nothing to resume")
        self.store.unmark_paused(view.job.id)
        return self._remark(view)

    def delete(self, view: JobView) -> None:
        """The job and all its files; a shard that is being run commits nothing any more."""
        self.store.delete(view.job)
        self._quietly(lambda: self.index.forget(view.job))

    def _remark(self, view: JobView) -> JobView:
        marks: Marks = self.store.marks(view.job.id)
        self._quietly(lambda: self.index.mark(view.job, marks))
        return JobView(job=view.job, marks=marks, committed=view.committed)

    def _put(self, view: JobView) -> None:
        self.index.put(view)
        if not self.store.exists(view.job.id):  # deleted between the look and the write: nothing reappears
            self.index.forget(view.job)

    @staticmethod
    def _quietly(tell: Callable[[], T]) -> None:
        try:
            tell()
        except RedisError as error:
            logger.warning("Redis not told, it is away", error=type(error).__name__)
