"""What GET /metrics tells: what this server's processes counted, and how the installation stands by Redis and storage.

Workers say in their presence how they stand, so that one scrape of web is enough for a small installation; what they
counted they tell themselves (worker/scrape.py).
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client import Metric as Family
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError

from shared import counting, metrics
from shared.build import umekomi_version
from shared.counting import Reading
from shared.interactive.standing import LaneStanding, standings
from shared.jobs.backlog import BYTES_OF_TOKEN, Backlog
from shared.jobs.index import JobIndex
from shared.jobs.job import Status
from shared.models import Models
from shared.presence import PresenceBoard, WorkerPresence

# Two scrapers at once, or one gone wild, cost Redis no more than this.
LOOK_EVERY_S = 1.0
UNFINISHED: tuple[Status, ...] = ("validating", "queued", "in_progress", "paused")


@dataclass(frozen=True, slots=True)
class Standing:
    """How the installation stood a moment ago."""

    workers: Sequence[WorkerPresence]
    asks: dict[str, LaneStanding]
    backlog: Backlog


class Installation(Collector):
    """Looks at Redis and storage when it is asked; thread-safe."""

    def __init__(
        self,
        redis: Redis,
        presence: PresenceBoard,
        index: JobIndex,
        registry: Models,
        storage_problem: Callable[[], str | None],
    ) -> None:
        self._redis = redis
        self._presence = presence
        self._index = index
        self._registry = registry
        self._storage_problem = storage_problem
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._standing: Standing | None = None

    def describe(self) -> list[Family]:
        """Nothing is looked up to register it."""
        return []

    def collect(self) -> Iterator[Family]:
        """The families, those of Redis only while it answers."""
        standing = self.look()
        yield _one(metrics.BUILD_INFO, 1, umekomi_version())
        yield _one(metrics.REDIS_UP, standing is not None)
        yield _one(metrics.STORAGE_UP, self._storage_problem() is None)
        if standing is not None:
            yield from _of_workers(standing.workers)
            yield from _of_lanes(standing)
            yield from _of_jobs(standing.backlog)

    def look(self) -> Standing | None:
        """How it stands, at most a second old; None while Redis is away."""
        with self._lock:
            if time.monotonic() - self._looked_at >= LOOK_EVERY_S:
                self._looked_at = time.monotonic()
                try:
                    models = [config.name for config in self._registry]
                    self._standing = Standing(self._presence.workers(), standings(self._redis, models), self._index.backlog())
                except RedisError:
                    self._standing = None
            return self._standing


def exposed(installation: Installation) -> CollectorRegistry:
    """Everything that is told: what this server's processes counted, and the installation."""
    registry = counting.registry_of(metrics.metrics_of("web"))
    registry.register(installation)
    return registry


def _one(reading: Reading, value: float, *labels: str) -> Family:
    family = reading.family()
    family.add_metric(labels, float(value))
    return family


def _many(reading: Reading, values: Mapping[Any, float]) -> Family:
    family = reading.family()
    for labels, value in values.items():
        family.add_metric(labels if isinstance(labels, tuple) else (labels,), float(value))
    return family


def _of_workers(workers: Sequence[WorkerPresence]) -> Iterator[Family]:
    states: Counter[tuple[str, str]] = Counter()
    rates: dict[str, float] = defaultdict(float)
    memory: Counter[str] = Counter()
    for worker in workers:
        for name, model in worker.models.items():
            states[name, model.state] += 1
            rates[name] += model.tokens_per_s or 0
            memory[name] += (model.memory_bytes or 0) if model.loaded_at is not None else 0
    yield _one(metrics.WORKERS, len(workers))
    yield _many(metrics.MODEL_WORKERS, states)
    yield _many(metrics.MODEL_TOKENS_PER_S, rates)
    yield _many(metrics.MODEL_MEMORY_BYTES, memory)


def _of_lanes(standing: Standing) -> Iterator[Family]:
    asked = sum(waiting.bytes for waiting in standing.asks.values()) // BYTES_OF_TOKEN
    yield _many(metrics.WAITING_ASKS, {name: waiting.asks for name, waiting in standing.asks.items()})
    yield _many(metrics.LANE_WAITING_TOKENS, {"interactive": asked, "bulk": standing.backlog.waiting_tokens})


def _of_jobs(backlog: Backlog) -> Iterator[Family]:
    yield _many(metrics.JOBS, {**dict.fromkeys(UNFINISHED, 0), **backlog.jobs})
    shards = {"pending": backlog.pending_shards, "in_flight": backlog.in_flight_shards, "committed": backlog.committed_shards}
    yield _many(metrics.SHARDS, shards)
    oldest = backlog.oldest_created_at
    yield _one(metrics.OLDEST_JOB_SECONDS, 0.0 if oldest is None else max(0.0, time.time() - oldest))
