"""Readiness: what is there, what is missing, and how each model stands over all live workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import StorageAway
from shared.models import ModelConfig, ModelRegistry
from shared.presence import ModelState, WorkerPresence
from shared.storage import Storage
from web.openai import ServedModel

# A look at storage writes an object: probes that come more often get the last one's result.
STORAGE_LOOK_S = 1.0
# The best of the workers counts: one that is ready serves, whatever the others do.
_BEST_FIRST: tuple[ModelState, ...] = ("ready", "loading", "available", "failed")


@dataclass(frozen=True, slots=True)
class Readiness:
    """Ready if nothing is missing; every entry of `missing` is a sentence."""

    body: dict[str, Any]
    missing: list[str]


def readiness(
    registry: ModelRegistry, workers: Sequence[WorkerPresence] | None, storage_problem: str | None, registry_read_at: float
) -> Readiness:
    """What GET /readyz says; `workers` is None if Redis is away."""
    missing = []
    if workers is None:
        missing.append("Redis cannot be reached")
    if storage_problem is not None:
        missing.append(storage_problem)
    served = [serve(config, workers, registry_read_at) for config in registry]
    if not served:
        missing.append("no model is configured")
    for model in served:
        if workers is not None and (sentence := _lacks(model)):
            missing.append(sentence)
    body = {
        "status": "not ready" if missing else "ready",
        "redis": "away" if workers is None else "ok",
        "storage": "ok" if storage_problem is None else "away",
        "models": {
            model.config.name: {"state": model.state, "workers": model.workers, "reason": model.reason} for model in served
        },
        "missing": missing,
        "problems": [str(problem) for problem in registry.problems],
    }
    return Readiness(body, missing)


def serve(config: ModelConfig, workers: Sequence[WorkerPresence] | None, created: float) -> ServedModel:
    """How a model stands: the best state of the live workers that serve it; `unknown` if Redis is away (None)."""
    if workers is None:
        return ServedModel(config=config, created=int(created), state="unknown", reason="Redis cannot be reached")
    found = [(worker, worker.models[config.name]) for worker in workers if config.name in worker.models]
    if not found:
        return ServedModel(config=config, created=int(created), state="unknown", reason="no live worker serves it")
    worker, presence = min(found, key=lambda pair: _BEST_FIRST.index(pair[1].state))
    return ServedModel(
        config=config,
        created=int(created),
        state=presence.state,
        workers=sum(other.state != "failed" for _, other in found),
        reason=presence.reason,
        dimensions=presence.dimensions,
        max_tokens=presence.max_tokens,
        dtype=presence.dtype,
        device=worker.device,
    )


def _lacks(model: ServedModel) -> str | None:
    name, reason = model.config.name, f": {model.reason}" if model.reason else ""
    if model.state == "unknown":
        return f"no live worker serves the model {name}"
    if model.state == "failed":
        return f"the model {name} failed to load{reason}"
    if model.config.preload and model.state != "ready":
        return f"the model {name} is not loaded yet (state {model.state})"
    return None


class StorageCheck:
    """Whether storage can be written, looked at once a second however many ask."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._looked_at: float | None = None  # monotonic seconds
        self._problem: str | None = None

    def problem(self) -> str | None:
        """What is wrong with storage, as a sentence; None if nothing is."""
        with self._lock:
            now = time.monotonic()
            if self._looked_at is None or now - self._looked_at >= STORAGE_LOOK_S:
                try:
                    self._storage.check()
                    self._problem = None
                except StorageAway as error:
                    self._problem = error.message
                except OSError as error:  # such as a file where its directory should be
                    self._problem = f"storage cannot be used: {error.strerror or type(error).__name__}"
                self._looked_at = time.monotonic()
            return self._problem
