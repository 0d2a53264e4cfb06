"""Historian: while this worker leads, it writes down every few seconds what all workers did."""

from __future__ import annotations

import threading
import time

from redis.exceptions import RedisError

from shared.history import STEP_S, History, Totals, between, totals
from shared.jobs.index import JobIndex
from shared.logs import get_logger
from shared.presence import PresenceBoard

logger = get_logger(__name__)


class Historian:
    """One thread; a step that cannot be written is missing in the chart, and nothing else depends on it."""

    def __init__(self, index: JobIndex, board: PresenceBoard, history: History, worker_id: str) -> None:
        self._index = index
        self._board = board
        self._history = history
        self._worker_id = worker_id
        self._before: tuple[float, Totals] | None = None  # monotonic seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="historian", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def note(self) -> None:
        """Write a step down, if this worker leads and led at the look before. Raises RedisError."""
        if not self._index.is_leading(self._worker_id):
            self._before = None
            return
        found, now = totals(self._board.workers()), time.monotonic()
        if self._before is not None:
            noted_at, before = self._before
            self._history.add(between(before, found, at=time.time(), seconds=now - noted_at))
        self._before = now, found

    def _run(self) -> None:
        while not self._stopping.wait(STEP_S):
            try:
                self.note()
            except RedisError as error:
                self._before = None
                logger.debug("history not written", error=type(error).__name__)
            except Exception:
                self._before = None
                logger.exception("historian failed")
