"""Jobs: what web and worker do with jobs, storage first and Redis after it, best effort; the one place that knows both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from redis.exceptions import RedisError

from shared.errors import Conflict, NotFound, RedisAway, StorageAway
from shared.jobs import retrying
from shared.jobs.index import JobIndex
from shared.jobs.job import FINISHED, Delivery, Done, Job, JobView, Kind, Marks, Status
from shared.jobs.store import JobStore
from shared.logs import get_logger

logger = get_logger(__name__)


class Jobs:
    """Methods raise StorageAway if storage cannot be used, and work without Redis unless they say otherwise."""

    def __init__(self, store: JobStore, index: JobIndex) -> None:
        self.store = store
        self.index = index

    def submit(self, job: Job, end: Done | None = None) -> Job:
        """Make the job exist and tell the workers; its input lies in storage already. With an `end` it is over at once.

        The job that exists in the end: with an idempotency key it may be an earlier one, and the input is discarded then.
        """
        if end is not None:
            self.store.put_early_end(job.id, end)
        existing = self.store.put_job(job)
        if existing.id != job.id:
            self.store.discard(job.id)
            return existing
        try:
            self.announce(job.id)
        except StorageAway as error:
            # The manifest lies there: the job is accepted, and the note that Redis has yet to hear of it lies there too.
            logger.warning("job not announced, storage is away", job=job.id, error=str(error))
        return job

    def announce(self, job_id: str) -> bool:
        """Tell Redis all that storage knows of the job. False if Redis is away: the leader does it later."""
        try:
            self._put(self.from_storage(job_id))
        except RedisError as error:
            logger.warning("job not announced, Redis is away", job=job_id, error=type(error).__name__)
            return False
        except NotFound:
            return self._forget(job_id)
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

    def glance(self, job_id: str) -> JobView:
        """As `view`, but without the counts of a job's shards if Redis knows it. Raises NotFound."""
        try:
            view = self.index.glance(job_id)
        except RedisError:
            view = None
        return view if view is not None else self.view(job_id)

    def from_storage(self, job_id: str) -> JobView:
        """The truth. Raises NotFound."""
        job = self.store.get(job_id)
        marks = self.store.marks(job_id)
        committed = self.store.committed_counts(job_id) if marks.done is None else {}
        delivery = Delivery()
        if marks.done is not None and job.webhook_url is not None:
            delivery = self.store.delivery(job)
        return JobView(job=job, marks=marks, committed=committed, delivery=delivery)

    def list(
        self, owner: str, *, kind: Kind = "job", status: Status | None = None, after: str | None, limit: int
    ) -> tuple[list[JobView], bool]:
        """An owner's jobs or batches, newest first, and whether there are more. Raises RedisAway."""
        found: list[JobView] = []
        try:
            while len(found) <= limit:
                ids = self._newest_of(owner, kind, after, max(limit + 1, 100))
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
        self.store.to_announce(view.job.id)
        self.store.mark_cancelled(view.job.id)
        return self._remark(view)

    def pause(self, view: JobView) -> JobView:
        """Durably; nothing new begins until `resume`. Raises Conflict."""
        if view.status in FINISHED:
            raise Conflict(f"the job is {view.status}; it can no longer be paused")
        self.store.to_announce(view.job.id)
        self.store.mark_paused(view.job.id)
        return self._remark(view)

    def resume(self, view: JobView) -> JobView:
        """The job goes on where it was. Raises Conflict."""
        if view.status in FINISHED:
            raise Conflict(f"the job is {view.status}; there is nothing to resume")
        self.store.to_announce(view.job.id)
        self.store.unmark_paused(view.job.id)
        return self._remark(view)

    def retry(self, view: JobView) -> JobView:
        """Run the failed rows of a completed job again; of two calls at once one makes the round, and both see it.

        Raises Conflict if there is nothing to retry, NotFound if the job is deleted meanwhile.
        """
        # Not what Redis says: a round is numbered, and two of the same number would mix.
        job = self.store.get(view.job.id)
        retrying.check(job, self.store.marks(job.id))
        shards = retrying.write_round(self.store, job)
        if not shards:
            raise Conflict("none of the failed rows has a text to embed; submit them corrected as a new job")
        self.store.to_announce(job.id)
        if self.store.put_round(job.id, len(job.rounds) + 1, shards):
            logger.info("failed rows retried", job=job.id, round=len(job.rounds) + 1, rows=sum(shards), shards=len(shards))
        self.announce(job.id)
        return self.view(job.id)

    def delete(self, view: JobView) -> None:
        """The job and all its files; a shard that is being run commits nothing any more."""
        self.store.to_announce(view.job.id)
        self.store.delete(view.job)
        if self._quietly(lambda: self.index.forget(view.job)):
            self.store.announced(view.job.id)

    def delivered(self, view: JobView) -> None:
        """Keep what became of telling the job's webhook. Without Redis it is told again, when Redis hears of the job again."""
        if not self.store.put_delivery(view.job, view.delivery):
            self._quietly(lambda: self.index.forget(view.job))
            return

        def tell() -> None:
            self.index.delivered(view)
            if not self.store.exists(view.job.id):  # deleted between the look and the write: nothing reappears
                self.index.forget(view.job)

        self._quietly(tell)

    def _forget(self, job_id: str) -> bool:
        """The job is not in storage: whatever Redis knows of it goes. False if Redis is away."""

        def forget() -> None:
            view = self.index.view(job_id)
            if view is not None:
                self.store.discard_if_deleted(job_id)  # whoever deleted it may have been killed half-way
                self.index.forget(view.job)

        if not self._quietly(forget):
            return False
        self.store.announced(job_id)
        return True

    def _newest_of(self, owner: str, kind: Kind, after: str | None, limit: int) -> Sequence[str]:
        if self.index.is_rebuilt():
            return self.index.newest_of(owner, after, limit, kind)
        # Redis was wiped, and no leader has filled it yet: half of a list would look like jobs lost.
        newest = []
        for job_id in self.store.ids():
            with suppress(NotFound):
                job = self.store.get(job_id)
                if job.owner == owner and job.kind == kind:
                    newest.append((job.created_at, job.id))
        ids = [job_id for _, job_id in sorted(newest, reverse=True)]
        if after is None:
            return ids[:limit]
        start = ids.index(after) + 1 if after in ids else len(ids)
        return ids[start : start + limit]

    def _remark(self, view: JobView) -> JobView:
        marks = self.store.marks(view.job.id)
        if self._quietly(lambda: self.tell(view.job, marks)):
            self.store.announced(view.job.id)
        return JobView(job=view.job, marks=self.store.marks(view.job.id), committed=view.committed)

    def _put(self, view: JobView) -> None:
        self.index.put(view)
        marks = self.store.marks(view.job.id)
        if marks.done != view.marks.done:
            # It ended since, or its failed rows are tried again since, and there are more shards.
            with suppress(NotFound):
                self._put(self.from_storage(view.job.id))
                return
        if marks != view.marks or not self.store.exists(view.job.id):
            self.tell(view.job, marks)

    def tell(self, job: Job, marks: Marks) -> None:
        """Tell Redis until storage says the same after as before: of two who tell at once, old news never stands at the end.

        Raises RedisError.
        """
        while True:
            self.index.mark(job, marks)
            now = self.store.marks(job.id)
            if now == marks:
                break
            if marks.done is not None:
                # Its failed rows are tried again since (there are more shards, which storage tells), or it is deleted.
                with suppress(NotFound):
                    self._put(self.from_storage(job.id))
                    return
            marks = now
        if not self.store.exists(job.id):  # deleted between the look and the write: nothing reappears
            self.index.forget(job)

    @staticmethod
    def _quietly(tell: Callable[[], None]) -> bool:
        """Whether Redis could be told."""
        try:
            tell()
        except RedisError as error:
            logger.warning("Redis not told, it is away", error=type(error).__name__)
            return False
        return True
