"""BulkQueues: the queues of shards that Celery takes from, one per served model, while the models change."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from celery import Celery

from shared import bulk, keys
from shared.logs import get_logger

logger = get_logger(__name__)


class BulkQueues:
    """Thread-safe. Celery's consumer is changed in its own thread, once it is there."""

    def __init__(self, celery: Celery, models: Iterable[str]) -> None:
        """`models`: those the application was made with."""
        self._celery = celery
        self._lock = threading.Lock()
        self._wanted = frozenset(map(keys.bulk_queue, models))
        self._taken = self._wanted
        self._consumer: Any = None

    def consumer_ready(self, consumer: Any) -> None:
        """Celery is connected, for the first time or again."""
        with self._lock:
            self._consumer = consumer
        consumer.call_soon(self._follow)

    def take_from(self, models: Iterable[str]) -> None:
        """From now on take the shards of these models only; what lies in other queues is left to other workers."""
        with self._lock:
            self._wanted = frozenset(map(keys.bulk_queue, models))
            consumer = self._consumer
        if consumer is not None:
            consumer.call_soon(self._follow)

    def _follow(self) -> None:
        """In the consumer's thread, which an exception would end."""
        with self._lock:
            wanted, taken = self._wanted, self._taken
            self._taken = wanted
        try:
            for name in sorted(wanted - taken):
                bulk.declare_queue(self._celery, name)
                self._consumer.add_task_queue(name)
            for name in sorted(taken - wanted):
                self._consumer.cancel_task_queue(name)
        except Exception:
            with self._lock:
                self._taken = taken  # tried again at the next change, or when Celery is connected again
            logger.exception("queues not followed")
