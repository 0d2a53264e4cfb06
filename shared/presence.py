"""Presence: which workers live, what they serve and how much waits there; keys that expire unless they are renewed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

import orjson
from redis import Redis

from shared import keys

# A worker renews its presence every second; one that missed three beats counts as dead and its asks are taken over.
BEAT_S = 1.0
PRESENCE_S = 4.0

# available: loads at first use. failed: this worker cannot serve it, and `reason` says why.
ModelState = Literal["ready", "loading", "available", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPresence:
    """What one worker says of one model."""

    state: ModelState
    reason: str | None = None
    dimensions: int | None = None
    max_tokens: int | None = None
    dtype: str | None = None
    tokens_per_s: float | None = None  # measured in bulk batches; None before the first
    prompts: tuple[str, ...] = ()  # names a caller may give


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
            models[name] = ModelPresence(**said | {"prompts": tuple(said.get("prompts", ()))})
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
