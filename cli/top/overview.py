"""Overview: what GET /v1/overview says, as far as it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cli.client import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    name: str
    state: str
    reason: str | None = None
    device: str | None = None
    dtype: str | None = None
    engine: str = ""
    memory_bytes: int | None = None
    workers: int = 0
    in_use: int = 0
    tokens_per_second: float | None = None
    download: Download | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    job: str
    shard: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    id: str
    host: str
    pid: int
    device: str
    heard_seconds_ago: float = 0.0
    memory_bytes: int = 0
    models: list[str] = field(default_factory=list)
    waiting_tokens: dict[str, int] = field(default_factory=dict)  # by lane
    shards: list[Shard] = field(default_factory=list)
    shards_at_once: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractiveLane:
    model: str
    asks: int
    bytes: int = 0
    oldest_seconds: float | None = None
    answered: int = 0  # in the last minute
    failed: int = 0
    p50_seconds: float | None = None
    p99_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkLane:
    model: str
    jobs: int
    paused: int = 0
    shards_waiting: int = 0
    shards_in_flight: int = 0
    oldest_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    interactive: list[InteractiveLane] = field(default_factory=list)
    bulk: list[BulkLane] = field(default_factory=list)
    waiting_tokens: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """A figure a second for each step, the latest last, by lane."""

    step_seconds: float = 0.0
    texts_per_second: dict[str, list[float]] = field(default_factory=dict)
    tokens_per_second: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    id: str
    kind: str
    model: str
    status: str
    priority: str = "normal"
    created_at: float = 0.0  # unix seconds
    rows: int = 0
    shards: int = 0
    shards_done: int = 0
    is_yours: bool = False

    @property
    def share(self) -> float:
        """Done, from 0 to 1."""
        return min(1.0, self.shards_done / self.shards) if self.shards else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """How the installation stands at one moment."""

    at: float  # unix seconds, by the server's clock
    models: list[Model]
    workers: list[Worker]
    lanes: Lanes
    throughput: Throughput
    jobs: list[Job]
    scope: str = "all"
    version: str = ""
    redis: str = "ok"
    unfinished_jobs: int = 0
    problems: list[str] = field(default_factory=list)


_ADAPTER = TypeAdapter(Overview)


def read_overview(wire: Mapping[str, Any]) -> Overview:
    """Fields that this version does not know are passed over. Raises Refused if it is something else."""
    try:
        return _ADAPTER.validate_python(wire)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise Refused(f"the server's overview is not as this version of umekomi knows it (at {where})") from None
