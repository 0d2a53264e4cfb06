"""Reconciler: one worker at a time leads, deals shards of all running jobs, and mends what was lost on the way.

Storage tells what is pending; Redis only what is on its way. So whatever Redis, Celery or a worker forgets is sent again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from shared import bulk
from shared.errors import NotFound, StorageAway
from shared.files import FileStore
from shared.jobs.dispatch import deal
from shared.jobs.finishing import finish, finish_cancelled
from shared.jobs.job import FINALIZE
from shared.jobs.jobs import Jobs
from shared.logs import get_logger
from shared.presence import PresenceBoard
from shared.settings import Settings
from worker.expiry import Expiry
from worker.threads import essential_thread

logger = get_logger(__name__)

# A leader that was silent for so long is followed by another; it renews at least once a second.
LEAD_S = 5.0
WAIT_S = 1.0
# An upload without a manifest is given up when nothing was written to it for so long.
BROKEN_UPLOAD_AFTER_S = 86_400.0
SWEEP_INTERVAL_S = 600.0
# A note that Redis has yet to hear of a job whose manifest is not there: its web process is about to write it, or died.
NOTE_WITHOUT_JOB_AFTER_S = 60.0


class Reconciler:
    """One thread; it leads if no other worker does."""

    def __init__(
        self,
        jobs: Jobs,
        board: PresenceBoard,
        celery: Celery,
        models: Callable[[], list[str]],
        settings: Settings,
        worker_id: str,
        on_sweep: Callable[[], None] | None = None,
    ) -> None:
        """`models`: the names of those served now. `on_sweep`: what else the leader has done now and then; it returns at once."""
        self._jobs = jobs
        self._board = board
        self._celery = celery
        self._models = models
        self._settings = settings
        self._worker_id = worker_id
        self._stopping = threading.Event()
        self._thread = essential_thread(self._run, "reconciler")
        self._expiry = Expiry(jobs, settings.jobs_expire_after_s)
        self._swept_at = 0.0
        self._on_sweep = on_sweep

    def start(self) -> None:
        """Begin to lead as soon as nobody else does."""
        self._thread.start()

    def drain(self) -> None:
        """Lead no longer."""
        self._stopping.set()

    def stop(self) -> None:
        """End the thread; another worker may lead at once."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        next_look = 0.0
        while not self._stopping.is_set():
            try:
                if not self._jobs.index.lead(self._worker_id, LEAD_S):
                    next_look = 0.0
                    self._stopping.wait(WAIT_S)
                    continue
                if time.monotonic() >= next_look:
                    self.reconcile()
                    # Jittered, so that many installations on one storage do not look at the same moment.
                    next_look = time.monotonic() + self._settings.reconcile_interval_s * random.uniform(0.8, 1.2)
                for model in self._jobs.index.wait_for_deal(WAIT_S):
                    self.deal(model)
            except (RedisError, StorageAway, OperationalError) as error:
                logger.warning("not reconciled", error=type(error).__name__, reason=str(error)[:200])
                self._stopping.wait(WAIT_S)
            except Exception:
                logger.exception("reconciler failed")
                self._stopping.wait(WAIT_S)
        try:
            self._jobs.index.stop_leading(self._worker_id)
        except RedisError:
            pass  # it runs out by itself

    def reconcile(self) -> None:
        """Make Redis know what storage knows, end what is finished, send what is pending and lost."""
        self._fill_index()
        for job_id in self._jobs.index.running():
            self._end(job_id)
        for model in self._models():
            self.deal(model)
        self._finalize_without_model()
        if time.monotonic() - self._swept_at > SWEEP_INTERVAL_S or not self._swept_at:
            self._swept_at = time.monotonic()
            self._sweep()
        self._expiry.expire()

    def deal(self, model: str) -> None:
        """Send pending shards of the model's jobs, fairly, until as many are in flight as its workers can use."""
        index = self._jobs.index
        in_flight = index.in_flight(model)
        room = self._room(model) - len(in_flight)
        if room <= 0:
            return
        dealt = deal(index.for_dealing(index.running(), model, in_flight, room), room)
        if not dealt.sends:
            return
        # Noted first: a crash before the message goes out costs a delay, one after it would cost double work.
        index.sent(model, dealt.sends, time.time() + self._settings.resend_after_s, dealt.positions)
        for number, (job_id, shard) in enumerate(dealt.sends):
            try:
                bulk.send(self._celery, model, job_id, shard)
            except OperationalError:
                for unsent_job, unsent_shard in dealt.sends[number:]:
                    index.not_sent(model, unsent_job, unsent_shard)
                raise

    def _finalize_without_model(self) -> None:
        """End batches that are cancelled or expired and whose model nobody serves any more: that wants no model."""
        index, models = self._jobs.index, self._models()
        served = {name for worker in self._board.workers() for name in worker.models}
        for view in index.views(index.running()):
            if view is None or view.job.model in served or not view.is_to_finalize(time.time()) or not models:
                continue
            job = view.job
            if (job.id, FINALIZE) not in index.in_flight(job.model):
                index.sent(job.model, [(job.id, FINALIZE)], time.time() + self._settings.resend_after_s, {})
                bulk.send(self._celery, models[0], job.id, FINALIZE)

    def _room(self, model: str) -> int:
        """Shards that may be in flight: what the model's live workers run at once, and a few that wait for each."""
        room = 0
        for worker in self._board.workers():
            presence = worker.models.get(model)
            if presence is not None and presence.state != "failed":
                room += worker.shards_at_once + self._settings.window
        return room

    def _fill_index(self) -> None:
        store, index = self._jobs.store, self._jobs.index
        if not index.is_rebuilt():
            ids = store.ids()
            for job_id in ids:
                if self._stopping.is_set():
                    return
                # Not one that Redis learned of already: a wipe while jobs run is mended without reading each again.
                if index.view(job_id) is None and store.exists(job_id):
                    self._jobs.announce(job_id)
            index.rebuilt()
            logger.info("index rebuilt", jobs=len(ids))
        for job_id in store.unannounced():
            # One that Redis knows and storage does not was deleted.
            is_decided = store.exists(job_id) or index.view(job_id) is not None
            if is_decided or time.time() - store.noted_at(job_id) > NOTE_WITHOUT_JOB_AFTER_S:
                self._jobs.announce(job_id)

    def _end(self, job_id: str) -> None:
        try:
            view = self._jobs.glance(job_id)
            is_running = view.job.kind == "job" and view.marks.done is None and view.marks.cancelled_at is None
            if is_running and self._jobs.index.is_unfinished(job_id):
                return  # the counts of its shards may be a hundred thousand
            view = self._jobs.view(job_id)
        except NotFound:
            return
        if view.marks.done is not None:
            self._jobs.index.put(view)
        elif view.job.kind == "batch":
            pass  # its end is a step of its own, dealt like a shard
        elif view.marks.cancelled_at is not None:
            if not any(job == job_id for job, _ in self._jobs.index.in_flight(view.job.model)):
                finish_cancelled(self._jobs, view)
        elif len(view.committed) >= len(view.job.shards):
            finish(self._jobs, view.job)

    def _sweep(self) -> None:
        """Remove uploads that broke off when their web process died: nobody was told that they exist. And other leftovers."""
        store = self._jobs.store
        store.storage.sweep()
        FileStore(store.storage).sweep(time.time())
        self._expiry.remove_leftover_keys(time.time() - BROKEN_UPLOAD_AFTER_S)
        for job_id in store.ids():
            if not store.exists(job_id) and time.time() - store.last_written_at(job_id) > BROKEN_UPLOAD_AFTER_S:
                store.discard(job_id)
                logger.info("broken upload removed", job=job_id)
        if self._on_sweep is not None:
            self._on_sweep()
