"""Latencies: how long the asks of the last minute took, by model, over all web processes; in memory and, soon after, in Redis.

The histograms of /metrics tell the same for ever and in steps of two; here it is the last minute, to a tenth, for a look.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
from redis import Redis
from redis.exceptions import RedisError

from shared import keys
from shared.logs import get_logger

logger = get_logger(__name__)

SLOT_S = 5.0
WINDOW_S = 60.0
_SLOTS = int(WINDOW_S / SLOT_S)
# A bucket ends a fifth above the one before: a quantile is off by a tenth at most.
_FIRST_S, _RATIO, _LAST = 0.0005, 1.2, 70
PUBLISH_EVERY_S = 2.0
_EXPIRE_S = 120


@dataclass(slots=True)
class Slot:
    """What ended in a few seconds: answers by bucket, and failures."""

    buckets: dict[int, int] = field(default_factory=dict)
    failed: int = 0

    def add(self, other: Slot) -> None:
        """Both together."""
        self.failed += other.failed
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    @property
    def answered(self) -> int:
        """How many answers."""
        return sum(self.buckets.values())

    def quantile(self, share: float) -> float | None:
        """Seconds that this share of the answers took at most; None if there is none."""
        left = share * self.answered
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 1e-9:
                return float(_FIRST_S * _RATIO ** (bucket - 0.5))
        return None


def bucket_of(seconds: float) -> int:
    """Which bucket holds it."""
    return 0 if seconds <= _FIRST_S else min(_LAST, math.ceil(math.log(seconds / _FIRST_S, _RATIO)))


# Model -> slot (unix seconds over SLOT_S) -> what ended in it.
Slots = dict[str, dict[int, Slot]]


class Latencies:
    """Of one process. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.fresh = threading.Event()
        self._clock = clock
        self._lock = threading.Lock()
        self._slots: Slots = {}

    def answered(self, model: str, seconds: float) -> None:
        """An ask got its answer after so long."""
        bucket = bucket_of(seconds)
        with self._lock:
            buckets = self._slot(model).buckets
            buckets[bucket] = buckets.get(bucket, 0) + 1
        self.fresh.set()

    def failed(self, model: str) -> None:
        """An ask got an error."""
        with self._lock:
            self._slot(model).failed += 1
        self.fresh.set()

    def to_json(self) -> bytes:
        """For Redis."""
        with self._lock:
            said = {
                model: [[number, slot.failed, *map(list, slot.buckets.items())] for number, slot in slots.items()]
                for model, slots in self._slots.items()
            }
        return orjson.dumps(said)

    def _slot(self, model: str) -> Slot:
        now = int(self._clock() / SLOT_S)
        slots = self._slots.setdefault(model, {})
        if now not in slots:
            for old in [number for number in slots if number <= now - _SLOTS]:
                del slots[old]
            slots[now] = Slot()
        return slots[now]


def last_minute(published: Mapping[Any, bytes], now: float) -> dict[str, Slot]:
    """What all web processes published, added up by model, of the minute before `now` (unix seconds)."""
    first = int(now / SLOT_S) - _SLOTS + 1
    found: dict[str, Slot] = {}
    for raw in published.values():
        for model, slots in orjson.loads(raw).items():
            for number, failed, *buckets in slots:
                if number >= first:
                    found.setdefault(model, Slot()).add(Slot(dict(buckets), failed))
    return found


class LatencyBoard:
    """Publishes what this process measured, while there is news; one thread, which sleeps otherwise."""

    def __init__(self, redis: Redis, web_id: str, latencies: Latencies) -> None:
        self._redis = redis
        self._web_id = web_id
        self._latencies = latencies
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="latencies", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._latencies.fresh.set()
        if self._thread.ident is not None:
            self._thread.join()

    def publish(self) -> None:
        """Tell Redis. Raises RedisError."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hset(keys.LATENCIES, self._web_id, cast(Any, self._latencies.to_json()))
        pipeline.expire(keys.LATENCIES, _EXPIRE_S)
        pipeline.execute()

    def read(self, now: float) -> dict[str, Slot]:
        """The last minute by model. What processes that are gone left behind is removed. Raises RedisError."""
        published = cast(Any, self._redis.hgetall(keys.LATENCIES))
        stale = [web_id for web_id, raw in published.items() if not last_minute({web_id: raw}, now)]
        if stale:
            self._redis.hdel(keys.LATENCIES, *stale)
        return last_minute(published, now)

    def _run(self) -> None:
        with suppress(RedisError):
            self.read(time.time())
        while not self._stopping.is_set():
            self._latencies.fresh.wait()
            self._latencies.fresh.clear()
            if self._stopping.is_set():
                return
            try:
                self.publish()
            except RedisError as error:
                logger.debug("latencies not published", error=type(error).__name__)
            self._stopping.wait(PUBLISH_EVERY_S)
