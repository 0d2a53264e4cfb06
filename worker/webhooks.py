"""Webhooks: the leading worker tells those who asked for it that their job has ended, until they have heard it.

Storage keeps every try, so a kill -9 or a wiped Redis costs at most a second delivery of the same event.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from redis.exceptions import RedisError

from shared import metrics
from shared.build import umekomi_version
from shared.errors import NotFound, StorageAway
from shared.jobs.job import Delivery, JobView
from shared.jobs.jobs import Jobs
from shared.logs import get_logger
from shared.settings import Settings
from shared.signing import sign
from shared.webhooks import after, event_of, next_try_at
from worker.outbound import Caller, CallFailed
from worker.threads import essential_thread

logger = get_logger(__name__)

# How often the leader looks for webhooks that are due.
LOOK_S = 0.5
# Told side by side, so that a receiver that is slow holds up few others.
SIDE_BY_SIDE = 16
# A worker that died over a delivery has lost it after so long: longer than a call and the look-up of its name last.
TAKEN_FOR_S = 60.0


class Webhooks:
    """One thread that looks, and a few that call."""

    def __init__(self, jobs: Jobs, settings: Settings, worker_id: str, caller: Caller | None = None) -> None:
        self._jobs = jobs
        self._secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else None
        self._expire_after_s = settings.jobs_expire_after_s
        self._worker_id = worker_id
        self._caller = caller or Caller(allow_private=settings.webhook_allow_private)
        self._stopping = threading.Event()
        self._free = threading.Semaphore(SIDE_BY_SIDE)
        self._pool = ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="webhook")
        self._thread = essential_thread(self._run, "webhooks")
        self._agent = f"umekomi/{umekomi_version()}"

    def start(self) -> None:
        """Begin to deliver, as long as this worker leads."""
        if self._secret is not None:
            self._thread.start()

    def drain(self) -> None:
        """Begin no further delivery."""
        self._stopping.set()

    def stop(self) -> None:
        """End the threads; deliveries that run are waited for, which takes a few seconds at most."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._pool.shutdown(cancel_futures=True)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                if self._jobs.index.is_leading(self._worker_id):
                    self.look()
            except RedisError:
                pass  # the reconciler says so
            except Exception:
                logger.exception("looking for webhooks failed")

    def look(self) -> list[Future[None]]:
        """Begin to deliver what is due, as far as threads are free. Raises RedisError."""
        free = 0
        while free < SIDE_BY_SIDE and self._free.acquire(blocking=False):
            free += 1
        begun: list[Future[None]] = []
        try:
            for job_id in self._jobs.index.take_webhooks(free, TAKEN_FOR_S) if free else ():
                begun.append(self._pool.submit(self._deliver, job_id))
                begun[-1].add_done_callback(lambda _: self._free.release())
        finally:
            for _ in range(free - len(begun)):
                self._free.release()
        return begun

    def _deliver(self, job_id: str) -> None:
        try:
            view = self._jobs.from_storage(job_id)
            due_at = next_try_at(view)
            if due_at is None or due_at > time.time():
                self._jobs.announce(job_id)  # Redis did not know it better
                return
            self._try(view)
        except NotFound:
            self._drop(job_id)
        except (StorageAway, RedisError) as error:
            logger.warning("webhook put off", job=job_id, error=type(error).__name__)
        except Exception:
            logger.exception("webhook failed", job=job_id)

    def _try(self, view: JobView) -> None:
        assert self._secret is not None
        assert view.job.webhook_url is not None
        event = event_of(view, expire_after_s=self._expire_after_s)
        at = time.time()
        headers = {"content-type": "application/json", "user-agent": self._agent}
        status, wrong = None, None
        try:
            status = self._caller.post(
                view.job.webhook_url, headers | sign(self._secret, event.id, int(at), event.body), event.body
            )
        except CallFailed as error:
            wrong = error.reason
        view = replace(view, delivery=after(view.delivery, at=at, status=status, error=wrong))
        self._jobs.delivered(view)
        metrics.WEBHOOKS.inc(1, _outcome(view.delivery))
        log = logger.info if view.delivery.delivered_at is not None else logger.warning
        event_said = "webhook delivered" if view.delivery.delivered_at is not None else "webhook not delivered"
        log(
            event_said,
            job=view.job.id,
            attempt=len(view.delivery.attempts),
            status=status,
            error=wrong,
            is_last=view.delivery.is_over,
        )

    def _drop(self, job_id: str) -> None:
        try:
            self._jobs.index.drop_webhook(job_id)
        except RedisError:
            pass  # found again by the next look


def _outcome(delivery: Delivery) -> str:
    if delivery.delivered_at is not None:
        return "delivered"
    return "given_up" if delivery.is_over else "failed"
