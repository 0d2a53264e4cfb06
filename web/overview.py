"""The overview: what runs, what waits and why, in one look at Redis; GET /v1/overview and the dashboard's live view."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from redis import Redis
from redis.exceptions import RedisError
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from shared.history import History, Step
from shared.interactive.standing import LaneStanding, standings
from shared.jobs.index import JobIndex, Standing
from shared.jobs.job import Priority, Status
from shared.models import ModelConfig, Models
from shared.presence import ModelKind, ModelState, PresenceBoard, WorkerPresence
from web.latencies import LatencyBoard, Slot
from web.openai import DownloadObject, model_object
from web.readiness import serve

# Unfinished jobs that the overview names, the oldest first; all of them are counted.
MAX_JOBS = 100

Seconds = Annotated[float, Field(ge=0, description="seconds")]
At = Annotated[float, Field(description="unix seconds")]


class ModelOverview(TypedDict):
    """A model over all workers."""

    name: str
    kind: ModelKind
    state: ModelState | Literal["unknown"]
    reason: str | None
    device: str | None
    dtype: str | None
    engine: str | None  # what runs it, as the workers say; None while nobody has it
    dimensions: int | None
    max_tokens: int | None
    memory_bytes: int | None
    workers: int
    in_use: int
    tokens_per_second: float | None
    last_used_at: At | None
    pinned: bool
    download: DownloadObject | None


class ShardOverview(TypedDict):
    """A shard that runs; below 0 it is another step of its job: -1 reads the input, -2 writes the end."""

    job: str
    shard: int
    model: str
    seconds: Seconds


class WorkerOverview(TypedDict):
    """A live worker."""

    id: str
    host: str
    pid: int
    device: str
    started_at: At
    heard_seconds_ago: Seconds
    memory_bytes: int
    models: list[str]
    waiting_tokens: dict[str, int]
    shards: list[ShardOverview]
    shards_at_once: int


class InteractiveLane(TypedDict):
    """A model's questions: those without an answer, and how long those of the last minute took, as web saw it."""

    model: str
    asks: int
    bytes: int
    oldest_seconds: Seconds | None
    answered: int
    failed: int
    p50_seconds: Seconds | None
    p99_seconds: Seconds | None


class BulkLane(TypedDict):
    """A model's jobs that are not finished, paused ones apart; `oldest_seconds` since the first of them came."""

    model: str
    jobs: int
    paused: int
    shards_waiting: int
    shards_in_flight: int
    oldest_seconds: Seconds | None


class Lanes(TypedDict):
    """The two ways in."""

    interactive: list[InteractiveLane]
    bulk: list[BulkLane]
    waiting_tokens: dict[str, int]


class Throughput(TypedDict):
    """What all workers did, by lane: a figure a second for each step; `at` is a step's end."""

    step_seconds: Seconds
    at: list[At]
    texts_per_second: dict[str, list[float]]
    tokens_per_second: dict[str, list[float]]


class JobOverview(TypedDict):
    """A job or batch that is not finished; `is_yours` tells whether the key that asks may open it."""

    id: str
    kind: Literal["job", "batch"]
    model: str
    status: Status
    priority: Priority
    created_at: At
    rows: int
    shards: int
    shards_done: int
    shards_in_flight: int
    is_yours: bool


class Overview(TypedDict):
    """How the installation stands. `scope` is `own` for a key that may not see the workers, the lanes and others' jobs."""

    object: Literal["overview"]
    scope: Literal["all", "own"]
    at: At
    version: str
    redis: Literal["ok", "away"]
    models: list[ModelOverview]
    workers: list[WorkerOverview]
    lanes: Lanes
    throughput: Throughput
    jobs: list[JobOverview]
    unfinished_jobs: int
    problems: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One look, for whoever asks; `of` says it to one of them."""

    whole: Overview
    owners: Mapping[str, str]  # of the jobs named

    def of(self, owner: str, *, sees_all: bool) -> Overview:
        """As a caller may see it."""
        jobs: list[JobOverview] = [{**job, "is_yours": self.owners[job["id"]] == owner} for job in self.whole["jobs"]]
        if sees_all:
            return {**self.whole, "jobs": jobs}
        own = [job for job in jobs if job["is_yours"]]
        return {
            **self.whole,
            "scope": "own",
            "workers": [],
            "lanes": {"interactive": [], "bulk": [], "waiting_tokens": {}},
            "throughput": throughput([]),
            "jobs": own,
            "unfinished_jobs": len(own),
            "problems": [],
        }


class Looker:
    """Looks; a few round trips to Redis, whatever lies there."""

    def __init__(
        self, redis: Redis, registry: Models, presence: PresenceBoard, index: JobIndex, latencies: LatencyBoard, version: str
    ) -> None:
        self._redis = redis
        self._registry = registry
        self._presence = presence
        self._index = index
        self._latencies = latencies
        self._history = History(redis)
        self._version = version

    def look(self) -> Snapshot:
        """Raises nothing: while Redis is away the snapshot says so."""
        try:
            return self._look()
        except RedisError:
            return self._away()

    def _look(self) -> Snapshot:
        now = time.time()
        configs = list(self._registry)
        workers, heard = self._presence.workers(), self._presence.heard_ago()
        lanes = standings(self._redis, [config.name for config in configs])
        running = self._index.running()
        jobs = [job for job in self._index.standings(running[:MAX_JOBS]) if job.status != "cancelled"]
        whole: Overview = {
            "object": "overview",
            "scope": "all",
            "at": now,
            "version": self._version,
            "redis": "ok",
            "models": [_model(config, workers, now) for config in configs],
            "workers": [_worker(worker, heard.get(worker.id, 0.0), now) for worker in workers],
            "lanes": {
                "interactive": _interactive(configs, lanes, self._latencies.read(now)),
                "bulk": _bulk(jobs, now),
                "waiting_tokens": _waiting_tokens(workers),
            },
            "throughput": throughput(self._history.read()),
            "jobs": [_job(job) for job in jobs],
            "unfinished_jobs": len(running),
            "problems": [str(problem) for problem in self._registry.problems],
        }
        return Snapshot(whole=whole, owners={job.id: job.owner for job in jobs})

    def _away(self) -> Snapshot:
        now = time.time()
        whole: Overview = {
            "object": "overview",
            "scope": "all",
            "at": now,
            "version": self._version,
            "redis": "away",
            "models": [_model(config, None, now) for config in self._registry],
            "workers": [],
            "lanes": {"interactive": [], "bulk": [], "waiting_tokens": {}},
            "throughput": throughput([]),
            "jobs": [],
            "unfinished_jobs": 0,
            "problems": [str(problem) for problem in self._registry.problems],
        }
        return Snapshot(whole=whole, owners={})


def throughput(steps: Sequence[Step]) -> Throughput:
    """The steps as rates."""
    lanes = ("interactive", "bulk")

    def rates(done: Sequence[Mapping[str, int]], lane: str) -> list[float]:
        return [round(each.get(lane, 0) / step.seconds, 1) for each, step in zip(done, steps, strict=True)]

    return {
        "step_seconds": round(max((step.seconds for step in steps), default=0.0), 1),
        "at": [round(step.at, 1) for step in steps],
        "texts_per_second": {lane: rates([step.texts for step in steps], lane) for lane in lanes},
        "tokens_per_second": {lane: rates([step.tokens for step in steps], lane) for lane in lanes},
    }


def _model(config: ModelConfig, workers: Sequence[WorkerPresence] | None, now: float) -> ModelOverview:
    told = model_object(serve(config, workers, now))
    here = [worker.models[config.name] for worker in workers or () if config.name in worker.models]
    rates = [each.tokens_per_s for each in here if each.tokens_per_s is not None]
    return {
        "name": config.name,
        "kind": told["kind"],
        "state": told["state"],
        "reason": told["reason"],
        "device": told["device"],
        "dtype": told["dtype"],
        "engine": " + ".join(sorted({each.engine for each in here if each.engine})) or None,
        "dimensions": told["dimensions"],
        "max_tokens": told["max_tokens"],
        "memory_bytes": told["memory_bytes"],
        "workers": len(here),
        "in_use": sum(each.users for each in here),
        "tokens_per_second": round(sum(rates), 1) if rates else None,
        "last_used_at": told["last_used_at"],
        "pinned": config.pinned,
        "download": told["download"],
    }


def _worker(worker: WorkerPresence, heard_ago_s: float, now: float) -> WorkerOverview:
    return {
        "id": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "device": worker.device,
        "started_at": worker.started_at,
        "heard_seconds_ago": round(heard_ago_s, 1),
        "memory_bytes": sum(model.memory_bytes or 0 for model in worker.models.values()),
        "models": sorted(name for name, model in worker.models.items() if model.loaded_at is not None),
        "waiting_tokens": dict(worker.waiting_tokens),
        "shards": [
            {"job": each.job, "shard": each.shard, "model": each.model, "seconds": round(max(0.0, now - each.began_at), 1)}
            for each in worker.shards
        ],
        "shards_at_once": worker.shards_at_once,
    }


def _interactive(
    configs: Sequence[ModelConfig], lanes: Mapping[str, LaneStanding], minute: Mapping[str, Slot]
) -> list[InteractiveLane]:
    told: list[InteractiveLane] = []
    for config in configs:
        lane, slot = lanes[config.name], minute.get(config.name, Slot())
        p50, p99 = slot.quantile(0.5), slot.quantile(0.99)
        told.append(
            {
                "model": config.name,
                "asks": lane.asks,
                "bytes": lane.bytes,
                "oldest_seconds": lane.oldest_s,
                "answered": slot.answered,
                "failed": slot.failed,
                "p50_seconds": None if p50 is None else round(p50, 4),
                "p99_seconds": None if p99 is None else round(p99, 4),
            }
        )
    return told


def _bulk(jobs: Sequence[Standing], now: float) -> list[BulkLane]:
    told: list[BulkLane] = []
    for model in sorted({job.model for job in jobs}):
        of_model = [job for job in jobs if job.model == model]
        active = [job for job in of_model if job.status != "paused"]
        told.append(
            {
                "model": model,
                "jobs": len(active),
                "paused": len(of_model) - len(active),
                "shards_waiting": sum(max(0, job.shards - job.committed - job.in_flight) for job in active),
                "shards_in_flight": sum(job.in_flight for job in of_model),
                "oldest_seconds": max((max(0.0, now - job.created_at) for job in active), default=None),
            }
        )
    return told


def _waiting_tokens(workers: Sequence[WorkerPresence]) -> dict[str, int]:
    lanes = {lane for worker in workers for lane in worker.waiting_tokens}
    return {lane: sum(worker.waiting_tokens.get(lane, 0) for worker in workers) for lane in sorted(lanes)}


def _job(job: Standing) -> JobOverview:
    return {
        "id": job.id,
        "kind": job.kind,
        "model": job.model,
        "status": job.status,
        "priority": job.priority,
        "created_at": job.created_at,
        "rows": job.rows,
        "shards": job.shards,
        "shards_done": job.committed,
        "shards_in_flight": job.in_flight,
        "is_yours": False,
    }
