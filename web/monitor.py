"""What GET /backend/monitor and GET /system show: each model on each live worker, and the workers themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from shared.models import ModelConfig
from shared.presence import ModelState, WorkerPresence


class Memory(TypedDict):
    """Bytes, as measured when the models were loaded: of the device, or of the process on a CPU."""

    total: int


class ModelOnWorker(TypedDict):
    """How a model stands on one worker; times in unix seconds."""

    worker: str
    host: str
    device: str
    state: ModelState
    reason: str | None
    memory_bytes: int | None
    loaded_at: float | None
    last_used_at: float | None
    in_use: int  # requests and batches that hold it; it is not unloaded meanwhile


class ModelMonitor(TypedDict):
    """How a model stands on every live worker."""

    model: str
    state: ModelState | Literal["unknown"]
    pinned: bool
    memory: Memory
    workers: list[ModelOnWorker]


class WorkerOnSystem(TypedDict):
    """A live worker; times in unix seconds."""

    id: str
    host: str
    pid: int
    device: str
    started_at: float
    loaded_models: list[str]
    memory: Memory
    waiting_tokens: dict[str, int]


class LoadedModel(TypedDict):
    """A model that some worker has in memory."""

    id: str


class System(TypedDict):
    """What runs here: LocalAI's `backends` and `loaded_models`, and the workers."""

    backends: list[str]
    loaded_models: list[LoadedModel]
    version: str
    workers: list[WorkerOnSystem]
    devices: list[str]
    memory: Memory


def monitor(config: ModelConfig, state: ModelState | Literal["unknown"], workers: Sequence[WorkerPresence]) -> ModelMonitor:
    """One model; `state` is the best of the workers'."""
    return {
        "model": config.name,
        "state": state,
        "pinned": config.pinned,
        "memory": {"total": sum(each.models[config.name].memory_bytes or 0 for each in workers if config.name in each.models)},
        "workers": [_on_worker(worker, config.name) for worker in workers if config.name in worker.models],
    }


def system(backends: Sequence[str], version: str, workers: Sequence[WorkerPresence]) -> System:
    """All of it."""
    loaded = {name for worker in workers for name in _loaded(worker)}
    return {
        "backends": list(backends),
        "loaded_models": [{"id": name} for name in sorted(loaded)],
        "version": version,
        "workers": [
            {
                "id": worker.id,
                "host": worker.host,
                "pid": worker.pid,
                "device": worker.device,
                "started_at": worker.started_at,
                "loaded_models": _loaded(worker),
                "memory": {"total": _bytes(worker)},
                "waiting_tokens": dict(worker.waiting_tokens),
            }
            for worker in workers
        ],
        "devices": sorted({worker.device for worker in workers}),
        "memory": {"total": sum(map(_bytes, workers))},
    }


def _on_worker(worker: WorkerPresence, name: str) -> ModelOnWorker:
    model = worker.models[name]
    return {
        "worker": worker.id,
        "host": worker.host,
        "device": worker.device,
        "state": model.state,
        "reason": model.reason,
        "memory_bytes": model.memory_bytes,
        "loaded_at": model.loaded_at,
        "last_used_at": model.last_used_at,
        "in_use": model.users,
    }


def _loaded(worker: WorkerPresence) -> list[str]:
    return sorted(name for name, model in worker.models.items() if model.loaded_at is not None)


def _bytes(worker: WorkerPresence) -> int:
    return sum(model.memory_bytes or 0 for model in worker.models.values())
