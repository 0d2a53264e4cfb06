"""A double of the engine: vectors from a hash, at once or when the test says so; what it was asked is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.presence import ModelPresence, ModelState
from worker.engine import Embedded, EmbedRequest
from worker.work import Withdrawn

DIMENSIONS = 4


def hashed(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 [texts, 4], each row told by its text."""
    rows = [np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], dtype=np.uint16) for text in texts]
    return np.array(rows, dtype=np.float32).reshape(len(texts), DIMENSIONS)


def embedded(request: EmbedRequest) -> Embedded:
    """What the engine would give."""
    count = len(request.texts)
    return Embedded(
        vectors=hashed(request.texts),
        tokens=np.array([len(text.split()) for text in request.texts], dtype=np.int32),
        truncated=np.array(["LONG" in text for text in request.texts], dtype=bool),
        errors={},
        queue_s=0.001 * count,
        embed_s=0.002,
    )


@dataclass(frozen=True, slots=True)
class IdentityDouble:
    """What a loaded model is, as the test says."""

    name: str | None

    def digest(self) -> str | None:
        return self.name


class EngineDouble:
    """Answers at once; with `hold` set, when `release` is called."""

    device = "cpu"
    ample_tokens = 2**14

    def __init__(self, models: Sequence[str] = ("m",)) -> None:
        self.requests: list[EmbedRequest] = []
        self.hold = False
        self.longest: tuple[str, float] | None = None
        self.answer: Callable[[EmbedRequest], Embedded] = embedded
        self.states = dict.fromkeys(models, ModelPresence(state="ready", dimensions=DIMENSIONS, max_tokens=512))
        self.identities: dict[str, str | None] = dict.fromkeys(models, "the first one")
        self._held: list[tuple[EmbedRequest, Future[Embedded]]] = []

    def submit(self, request: EmbedRequest) -> Future[Embedded]:
        self.requests.append(request)
        future: Future[Embedded] = Future()
        self._held.append((request, future))
        if not self.hold:
            self.release()
        return future

    def withdraw(self, models: Collection[str]) -> None:
        """As the engine does with what it has not begun: here that is all that is held."""
        for request, future in self._held:
            if request.model.name in models:
                future.set_exception(Withdrawn("stopping"))
        self._held = [(request, future) for request, future in self._held if request.model.name not in models]

    def release(self) -> None:
        """Answer what is held."""
        while self._held:
            request, future = self._held.pop(0)
            if future.cancelled():
                continue
            try:
                future.set_result(self.answer(request))
            except BaseException as error:  # as an engine does: every failure is an answer
                future.set_exception(error)

    def identity(self, model: str) -> IdentityDouble | None:
        return IdentityDouble(self.identities[model]) if model in self.identities else None

    def presence(self) -> dict[str, ModelPresence]:
        return self.states

    @contextmanager
    def together(self) -> Iterator[None]:
        yield

    def model_states(self) -> dict[str, ModelState]:
        return {name: model.state for name, model in self.states.items()}

    def waiting_tokens(self) -> dict[str, int]:
        return {"interactive": 0, "bulk": len(self._held)}

    def longest_batch(self) -> tuple[str, float] | None:
        return self.longest

    def is_stuck(self, after_s: float) -> bool:
        return False
