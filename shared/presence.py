"""Presence: which workers live, what they serve and how much waits there; keys that expire unless they are renewed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

import orjson
from redis import Redis

from shared import keys

# A worker renews its presence every second; one that missed three beats counts as dead and its asks are taken over.
BEAT_S = 1.0
PRESENCE_S = 4.0

# available: loads at first use. failed: this worker cannot serve it, and `reason` says why.
ModelState = Literal["ready", "loading", "downloading", "available", "failed"]
# What a model makes of texts: vectors, or a score for each pair of a query and a document.
ModelKind = Literal["embed", "rerank"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadPresence:
    """How far a model's files are on their way from the hub."""

    done_bytes: int
    total_bytes: int
    done_files: int
    total_files: int
    eta_s: float | None = None  # None until the pace was measured

    def __str__(self) -> str:
        percent = 100 * self.done_bytes // max(1, self.total_bytes)
        left = "" if self.eta_s is None else f", about {max(1, round(self.eta_s))} s left"
        return (
            f"{self.done_bytes / 1e6:.1f} of {self.total_bytes / 1e6:.1f} MB ({percent} %), "
            f"{self.done_files} of {self.total_files} files{left}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPresence:
    """What one worker says of one model."""

    state: ModelState
    reason: str | None = None
    dimensions: int | None = None
    max_tokens: int | None = None
    dtype: str | None = None
    engine: str | None = None  # what runs it: onnx, torch
    tokens_per_s: float | None = None  # measured in bulk batches; None before the first
    prompts: tuple[str, ...] = ()  # names a caller may give
    kind: ModelKind = "embed"
    memory_bytes: int | None = None  # measured at its load; of the device, or of the process on a CPU
    loaded_at: float | None = None  # unix seconds, as below; None while it is not loaded
    last_used_at: float | None = None
    unloaded_at: float | None = None  # it was loaded, and had to go
    users: int = 0  # requests and batches that hold it
    download: DownloadPresence | None = None  # while it is downloading


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPresence:
    """A shard that a worker runs now."""

    job: str
    shard: int  # below 0: another step of the job, see shared.jobs.job
    model: str
    began_at: float  # unix seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneDone:
    """What went through a model on one lane since the worker started."""

    model: str
    lane: str
    texts: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPresence:
    """What a worker says of itself once a second."""

    id: str
    host: str
    pid: int
    device: str
    started_at: float  # unix seconds
    shards_at_once: int
    models: Mapping[str, ModelPresence] = field(default_factory=dict)
    waiting_tokens: Mapping[str, int] = field(default_factory=dict)  # by lane
    version: str = ""  # of umekomi; "" from before it was told
    shards: tuple[ShardPresence, ...] = ()
    done: tuple[LaneDone, ...] = ()

    def to_json(self) -> bytes:
        """For Redis."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, raw: bytes) -> WorkerPresence:
        """What `to_json` wrote; fields of a newer version are passed over."""
        fields = orjson.loads(raw)
        known = ModelPresence.__dataclass_fields__
        models = {}
        for name, model in fields.pop("models").items():
            said: dict[str, Any] = {key: value for key, value in model.items() if key in known}
            download = DownloadPresence(**said["download"]) if said.get("download") else None
            models[name] = ModelPresence(**said | {"prompts": tuple(said.get("prompts", ())), "download": download})
        fields["shards"] = tuple(ShardPresence(**shard) for shard in fields.get("shards", ()))
        fields["done"] = tuple(LaneDone(**done) for done in fields.get("done", ()))
        return cls(models=models, **{key: value for key, value in fields.items() if key in cls.__dataclass_fields__})


class PresenceBoard:
    """Where workers announce themselves and everybody looks. Every method raises RedisError if Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def announce(self, worker: WorkerPresence, *, draining: bool = False) -> None:
        """Renew a worker's presence; models it cannot serve are taken off, all of them while it is draining."""
        # By Redis's clock, which also decides whether an ask may enter: those of the machines may differ.
        seconds, microseconds = cast(Any, self._redis.time())
        now = seconds + microseconds / 1e6
        until = now + PRESENCE_S
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.set(keys.worker(worker.id), worker.to_json(), px=int(PRESENCE_S * 1000))
        pipeline.zadd(keys.WORKERS, {worker.id: until})
        for name, model in worker.models.items():
            if draining or model.state == "failed":
                pipeline.zrem(keys.able(name), worker.id)
            else:
                pipeline.zadd(keys.able(name), {worker.id: until})
            pipeline.zremrangebyscore(keys.able(name), "-inf", now - 3600)
        pipeline.zremrangebyscore(keys.WORKERS, "-inf", now - 3600)
        pipeline.execute()

    def leave(self, worker: WorkerPresence) -> None:
        """The worker takes no more work."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.delete(keys.worker(worker.id))
        pipeline.zrem(keys.WORKERS, worker.id)
        for name in worker.models:
            pipeline.zrem(keys.able(name), worker.id)
        pipeline.execute()

    def retire(self, worker_id: str, models: Iterable[str]) -> set[str]:
        """The worker takes no more asks; those of its models that another live worker has loaded and goes on serving."""
        names = list(models)
        seconds, microseconds = cast(Any, self._redis.time())
        pipeline = self._redis.pipeline(transaction=True)
        for name in names:
            # In one step with the look: of two workers that stop at once, only one finds the other.
            pipeline.zrem(keys.able(name), worker_id)
            pipeline.zrangebyscore(keys.able(name), seconds + microseconds / 1e6, "+inf")
        able = pipeline.execute()[1::2]
        states = {worker.id: worker.models for worker in self.workers()}
        return {
            name
            for name, others in zip(names, able, strict=True)
            for other in others
            if (said := states.get(other.decode(), {}).get(name)) is not None and said.state == "ready"
        }

    def is_alive(self, worker_id: str) -> bool:
        """Whether the worker renewed its presence lately."""
        return bool(self._redis.exists(keys.worker(worker_id)))

    def workers(self) -> list[WorkerPresence]:
        """Every live worker, by id."""
        ids = cast(Any, self._redis.zrange(keys.WORKERS, 0, -1))
        if not ids:
            return []
        found = cast(Any, self._redis.mget([keys.worker(worker_id.decode()) for worker_id in ids]))
        return sorted((WorkerPresence.from_json(raw) for raw in found if raw), key=lambda worker: worker.id)

    def heard_ago(self) -> dict[str, float]:
        """For how many seconds nothing was heard of each worker, by Redis's clock; dead ones are among them."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.time()
        pipeline.zrange(keys.WORKERS, 0, -1, withscores=True)
        (seconds, microseconds), scores = pipeline.execute()
        now = seconds + microseconds / 1e6
        return {worker_id.decode(): max(0.0, now + PRESENCE_S - until) for worker_id, until in scores}
