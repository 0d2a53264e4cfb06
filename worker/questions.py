"""Questions asked twice: equal short asks in flight share one forward, and a model's entry may have the latest answers kept.

An answer is handed out only while the very load of the model that made it is the one that is served.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, fields, replace

from shared import metrics
from shared.errors import DeadlinePassed, Unavailable
from shared.models import ModelConfig
from worker.identity import Identity
from worker.work import QUESTION_CHARACTERS, Embedded, EmbedRequest

# Whatever a request may come to say counts, but for these.
_OF_THE_ANSWER = [field.name for field in fields(EmbedRequest) if field.name not in ("model", "lane", "deadline")]

Submit = Callable[[EmbedRequest], Future[Embedded]]
Key = tuple[int, bytes]  # whose model, what is asked


@dataclass(slots=True)
class _Asked:
    """A question that is being answered, and all who wait for it."""

    model: ModelConfig
    identity: Identity | None  # of the load that was there when it was asked
    waiting: list[tuple[EmbedRequest, Future[Embedded]]]
    running: Future[Embedded] | None = None


@dataclass(slots=True)
class _Kept:
    """The latest answers of one load of a model."""

    model: ModelConfig
    identity: Identity
    answers: OrderedDict[bytes, Embedded] = field(default_factory=OrderedDict)


class Questions:
    """Between the asks and the engine. Thread-safe."""

    def __init__(self, submit: Submit, identity_of: Callable[[str], Identity | None]) -> None:
        self._submit = submit
        self._identity_of = identity_of
        self._lock = threading.Lock()  # no future is resolved, and the engine is not called, while it is held
        self._asked: dict[Key, _Asked] = {}
        self._kept: dict[str, _Kept] = {}

    def submit(self, request: EmbedRequest) -> Future[Embedded]:
        """As Engine.submit; a question that is being answered, or whose answer is kept, is not run again."""
        if not _is_question(request):
            return self._submit(request)
        digest = _digest(request)
        key = (id(request.model), digest)
        identity = self._identity_of(request.model.name)
        future: Future[Embedded] = Future()
        with self._lock:
            kept = self._kept_answer(request.model, identity, digest)
            running = self._asked.get(key)
            # A forward may have begun before a reload: a question asked after it gets the new model's vector.
            if kept is None and running is not None and running.identity == identity:
                running.waiting.append((request, future))
                metrics.COALESCED.inc(1, request.model.name)
                return future
            asked = _Asked(request.model, identity, [(request, future)])
            if kept is None:
                self._asked[key] = asked
        if kept is None:
            self._run(key, asked, request)
        else:
            metrics.QUERY_CACHE_HITS.inc(1, request.model.name)
            future.set_result(kept)
        return future

    def _run(self, key: Key, asked: _Asked, request: EmbedRequest) -> None:
        asked.running = self._submit(request)
        asked.running.add_done_callback(lambda running: self._answer(key, asked, running))

    def _answer(self, key: Key, asked: _Asked, running: Future[Embedded]) -> None:
        """Everybody gets it; but who has more time than the first does not fail with him."""
        error = CancelledError() if running.cancelled() else running.exception()
        now_loaded = self._identity_of(asked.model.name)
        with self._lock:
            waiting, asked.waiting = asked.waiting, []
            if isinstance(error, DeadlinePassed) and len(waiting) > 1:
                first, *others = waiting
                latest = max(others, key=lambda other: _deadline(other[0]))[0]
                if _deadline(latest) > _deadline(first[0]):
                    waiting, asked.waiting = [first], others
            if not asked.waiting and self._asked.get(key) is asked:
                del self._asked[key]
            if error is None:
                self._keep(asked, key[1], running.result(), now_loaded)
        if asked.waiting:
            self._run(key, asked, replace(latest))
        for _, future in waiting:
            if not future.set_running_or_notify_cancel():
                continue
            if error is None:
                future.set_result(running.result())
            else:
                future.set_exception(error if not isinstance(error, CancelledError) else Unavailable("this worker is stopping"))

    def _kept_answer(self, model: ModelConfig, identity: Identity | None, digest: bytes) -> Embedded | None:
        kept = self._kept.get(model.name)
        if kept is None:
            return None
        if kept.identity != identity or kept.model is not model:
            del self._kept[model.name]
            return None
        if digest not in kept.answers:
            return None
        kept.answers.move_to_end(digest)
        return replace(kept.answers[digest], queue_s=0.0, embed_s=0.0)

    def _keep(self, asked: _Asked, digest: bytes, answer: Embedded, now_loaded: Identity | None) -> None:
        most, name = asked.model.query_cache, asked.model.name
        if not most or asked.identity is None or answer.errors or now_loaded != asked.identity:
            return
        kept = self._kept.get(name)
        if kept is None or kept.identity != asked.identity or kept.model is not asked.model:
            kept = self._kept[name] = _Kept(asked.model, asked.identity)
        # A copy: the array may be a view of something larger.
        kept.answers[digest] = replace(answer, vectors=answer.vectors.copy())
        while len(kept.answers) > most:
            kept.answers.popitem(last=False)


def _is_question(request: EmbedRequest) -> bool:
    try:
        return (
            request.kind == "embed" and len(request) == 1 and len((request.texts or request.token_ids)[0]) <= QUESTION_CHARACTERS
        )
    except TypeError:
        return False  # malformed: the engine says so


def _digest(request: EmbedRequest) -> bytes:
    """Of all that the answer depends on beside the model."""
    asked = [getattr(request, name) for name in _OF_THE_ANSWER]
    return hashlib.blake2b(repr(asked).encode(), digest_size=16).digest()


def _deadline(request: EmbedRequest) -> float:
    return float("inf") if request.deadline is None else request.deadline
