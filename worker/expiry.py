"""Expiry: finished jobs go when they are old, and with them what else stands for nothing any more."""

from __future__ import annotations

import time

from shared.errors import NotFound
from shared.jobs.jobs import Jobs
from shared.logs import get_logger

logger = get_logger(__name__)

# The leader deals shards in the same thread: it deletes for so long at a time, and goes on at its next look.
BUDGET_S = 0.5
PAGE = 50
# Idempotency keys looked at in one sweep; the next one goes on behind them.
KEYS_A_SWEEP = 500


class Expiry:
    """The leader's. Redis knows which jobs ended when; storage has the last word before anything is deleted."""

    def __init__(self, jobs: Jobs, expire_after_s: float) -> None:
        self._jobs = jobs
        self._expire_after_s = expire_after_s
        self._key_seen = ""

    def expire(self) -> None:
        """Delete jobs that finished long enough ago, some at a time. Raises RedisError, StorageAway."""
        if not self._expire_after_s:
            return
        stop_at = time.monotonic() + BUDGET_S
        while time.monotonic() < stop_at:
            before = time.time() - self._expire_after_s
            found = self._jobs.index.finished_before(before, PAGE)
            for job_id in found:
                self._expire(job_id, before)
                if time.monotonic() >= stop_at:
                    return
            if len(found) < PAGE:
                return

    def _expire(self, job_id: str, before: float) -> None:
        try:
            view = self._jobs.from_storage(job_id)
        except NotFound:
            self._jobs.index.drop_finished(job_id)
            return
        done = view.marks.done
        if done is None or done.finished_at > before:
            self._jobs.index.put(view)  # its failed rows were tried again since, and nobody told Redis
            return
        self._jobs.delete(view)
        logger.info("job expired", job=job_id, status=done.status, finished_at=round(done.finished_at))

    def remove_leftover_keys(self, before: float) -> None:
        """Remove idempotency keys made before then (unix seconds) whose job never came to be. Raises StorageAway."""
        looked_at = 0
        for key_name in self._jobs.store.key_names():
            if key_name <= self._key_seen:
                continue
            if looked_at == KEYS_A_SWEEP:
                return
            looked_at += 1
            self._key_seen = key_name
            if self._jobs.store.remove_leftover_key(key_name, before):
                logger.info("leftover idempotency key removed")
        self._key_seen = ""
