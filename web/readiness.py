"""Readiness: what is there, what is missing, and how each model stands over all live workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from redis.exceptions import RedisError
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from shared.errors import ModelNotReady, StorageAway, UmekomiError
from shared.models import ModelConfig, Models
from shared.presence import ModelKind, ModelPresence, ModelState, PresenceBoard, WorkerPresence
from shared.storage import Storage
from web.openai import ServedModel

# A look at storage writes an object: probes that come more often get the last one's result.
STORAGE_LOOK_S = 1.0
# When to come back for a model of which nobody can tell when it is there.
UNKNOWN_WAIT_S = 5.0
# The best of the workers counts: one that is ready serves, whatever the others do.
_BEST_FIRST: tuple[ModelState, ...] = ("ready", "loading", "downloading", "available", "failed")


class ModelReadiness(TypedDict):
    """How a model stands, and how many live workers serve it."""

    state: ModelState | Literal["unknown"]
    workers: int
    reason: str | None


class ReadinessBody(TypedDict):
    """What is there, what is missing, and what is wrong with the configuration."""

    status: Literal["ready", "not ready"]
    redis: Literal["ok", "away"]
    storage: Literal["ok", "away"]
    models: dict[str, ModelReadiness]
    missing: list[str]
    problems: list[str]


@dataclass(frozen=True, slots=True)
class Readiness:
    """Ready if nothing is missing; every entry of `missing` is a sentence."""

    body: ReadinessBody
    missing: list[str]


def readiness(
    registry: Models, workers: Sequence[WorkerPresence] | None, storage_problem: str | None, registry_read_at: float
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
    body: ReadinessBody = {
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
    kind: ModelKind = "rerank" if config.reranking else "embed"
    if workers is None:
        return ServedModel(config=config, created=int(created), state="unknown", reason="Redis cannot be reached", kind=kind)
    found = [(worker, worker.models[config.name]) for worker in workers if config.name in worker.models]
    if not found:
        return ServedModel(config=config, created=int(created), state="unknown", reason="no live worker serves it", kind=kind)
    worker, presence = min(found, key=lambda pair: (_BEST_FIRST.index(pair[1].state), -_done_bytes(pair[1])))
    return ServedModel(
        config=config,
        created=int(created),
        state=presence.state,
        workers=sum(other.state != "failed" for _, other in found),
        reason=presence.reason,
        download=presence.download,
        dimensions=presence.dimensions,
        max_tokens=presence.max_tokens,
        dtype=presence.dtype,
        kind=kind if kind == "rerank" else presence.kind,
        prompts=presence.prompts,
        device=worker.device,
        memory_bytes=sum(bytes_of)
        if (bytes_of := [each.memory_bytes for _, each in found if each.memory_bytes is not None])
        else None,
        last_used_at=max((each.last_used_at for _, each in found if each.last_used_at is not None), default=None),
        was_loaded=any(each.loaded_at is not None or each.unloaded_at is not None for _, each in found),
    )


def _done_bytes(presence: ModelPresence) -> int:
    """One of a machine's workers downloads, the others wait for it."""
    return presence.download.done_bytes if presence.download is not None else 0


def why_not_ready(board: PresenceBoard, model: str) -> UmekomiError | None:
    """What to tell who waited in vain for a model that is on its way, or failed; None if it is ready, or nobody knows."""
    try:
        found = [worker.models[model] for worker in board.workers() if model in worker.models]
    except RedisError:
        return None
    if not found or any(presence.state == "ready" for presence in found):
        return None
    presence = min(found, key=lambda each: (_BEST_FIRST.index(each.state), -_done_bytes(each)))
    if presence.state == "downloading" and presence.download is not None:
        wait_s = presence.download.eta_s or UNKNOWN_WAIT_S
        message = f"the model {model!r} is being downloaded: {presence.download}"
        return ModelNotReady(message, retry_after_s=wait_s, param="model")
    if presence.state == "loading":
        return ModelNotReady(f"the model {model!r} is still being loaded", retry_after_s=UNKNOWN_WAIT_S, param="model")
    if presence.state == "failed":
        message = f"the model {model!r} could not be loaded: {presence.reason}"
        return ModelNotReady(message, retry_after_s=UNKNOWN_WAIT_S, param="model")
    return None


def _lacks(model: ServedModel) -> str | None:
    name, reason = model.config.name, f": {model.reason}" if model.reason else ""
    if model.state == "unknown":
        return f"no live worker serves the model {name}"
    if model.state == "failed":
        return f"the model {name} failed to load{reason}"
    if not model.config.preload or model.state == "ready":
        return None
    if model.state == "available":
        # Unloaded, or there was no room for it: it loads at its next use. With a reason it failed, and that may fail again.
        return f"the model {name} failed to load{reason}" if reason else None
    if model.state == "downloading":
        return f"the model {name} is being downloaded{reason}"
    return None if model.was_loaded else f"the model {name} is not loaded yet (state {model.state})"


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
