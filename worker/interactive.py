"""The worker's end of the interactive lane: asks go to the engine as they come, answers go back many at a time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future

import numpy as np
from redis.exceptions import RedisError

from shared.errors import EngineFailed, ModelNotFound, UmekomiError, Unavailable
from shared.interactive import Answer, AskServer, TakenAsk
from shared.logs import get_logger
from shared.models import ModelRegistry
from worker.engine import Embedded, EmbedRequest, Engine
from worker.threads import essential_thread

logger = get_logger(__name__)

# Asks taken at once from each model's stream: enough to fill a batch, few enough to leave some to other workers.
ASKS_AT_ONCE = 64
# Answers sent in one round trip.
ANSWERS_AT_ONCE = 128


class AskLoop:
    """Two threads: one takes asks while the engine has room for them, one sends answers."""

    def __init__(self, server: AskServer, engine: Engine, registry: ModelRegistry) -> None:
        self._server = server
        self._engine = engine
        self._registry = registry
        self._answers: queue.SimpleQueue[tuple[TakenAsk, Answer | UmekomiError] | None] = queue.SimpleQueue()
        self._draining = threading.Event()
        self._unanswered = 0
        self._answered = threading.Condition()
        self._taker = essential_thread(self._take, "asks")
        self._answerer = essential_thread(self._answer, "answers")

    def start(self) -> None:
        """Begin taking asks."""
        self._taker.start()
        self._answerer.start()

    def drain(self) -> None:
        """Take no more."""
        self._draining.set()

    def stop(self, within_s: float = 20.0) -> None:
        """Send the answers of all that was taken, then end both threads."""
        self._draining.set()
        self._taker.join()
        with self._answered:
            if not self._answered.wait_for(lambda: self._unanswered == 0, timeout=within_s):
                logger.error("asks left unanswered", asks=self._unanswered)
        self._answers.put(None)
        self._answerer.join()

    def take_over(self, is_alive: set[str]) -> None:
        """Run the asks of workers that are not among the living. Raises RedisError."""
        if self._draining.is_set():
            return
        taken = self._server.take_over(self._models(), lambda worker_id: worker_id in is_alive)
        if taken:
            logger.warning("asks of a dead worker taken over", asks=len(taken))
            self._run(taken)

    def _models(self) -> list[str]:
        # A model that does not load here may do so elsewhere: its asks are left to others.
        return [name for name, model in self._engine.presence().items() if model.state != "failed"]

    def _take(self) -> None:
        while not self._draining.is_set():
            try:
                if self._engine.wait_for_room(1.0):
                    models = self._models()
                    if models:
                        self._run(self._server.take(models, ASKS_AT_ONCE))
                    else:
                        self._draining.wait(1.0)
            except RedisError as error:
                logger.warning("asks not readable", error=type(error).__name__)
                self._draining.wait(0.5)

    def _run(self, asks: Iterable[TakenAsk]) -> None:
        for taken in asks:
            with self._answered:
                self._unanswered += 1
            try:
                request = self._request(taken)
            except UmekomiError as error:
                self._answers.put((taken, error))
                continue
            future = self._engine.submit(request)
            future.add_done_callback(lambda future, taken=taken: self._answers.put((taken, to_answer(future))))  # type: ignore[misc]

    def _request(self, taken: TakenAsk) -> EmbedRequest:
        ask = taken.ask
        if ask.model not in self._registry.models:
            raise ModelNotFound(f"the model {ask.model!r} is not served here", param="model")
        return EmbedRequest(
            model=self._registry.models[ask.model],
            lane="interactive",
            texts=ask.texts,
            token_ids=ask.token_ids,
            deadline=ask.deadline,
            dimensions=ask.dimensions,
            prompt_name=ask.prompt_name,
            input_type=ask.input_type,
            truncate=ask.truncate,
        )

    def _answer(self) -> None:
        while (first := self._answers.get()) is not None:
            batch = [first]
            while len(batch) < ANSWERS_AT_ONCE and not self._answers.empty():
                further = self._answers.get()
                if further is None:
                    self._answers.put(None)  # for the next turn
                    break
                batch.append(further)
            self._send(batch)
            with self._answered:
                self._unanswered -= len(batch)
                self._answered.notify_all()

    def _send(self, batch: list[tuple[TakenAsk, Answer | UmekomiError]]) -> None:
        """Until Redis takes them, or nobody waits for them any more."""
        while batch:
            try:
                self._server.answer(batch)
                return
            except RedisError as error:
                logger.warning("answers not sent", answers=len(batch), error=type(error).__name__)
                time.sleep(0.2)
                batch = [(taken, answer) for taken, answer in batch if taken.ask.deadline > time.time()]


def to_answer(future: Future[Embedded]) -> Answer | UmekomiError:
    """What goes back of a finished request: its vectors, or the first thing that was wrong."""
    try:
        embedded = future.result()
    except UmekomiError as error:
        return error
    except CancelledError:
        return Unavailable("the worker is stopping", retry_after_s=1)
    except Exception as error:  # whatever the library raises, its asker hears of it
        logger.exception("request failed")
        return EngineFailed(f"the model failed: {type(error).__name__}")
    if embedded.errors:
        return embedded.errors[min(embedded.errors)]
    return Answer(
        vectors=embedded.vectors,
        tokens=embedded.tokens.tolist(),
        truncated=np.flatnonzero(embedded.truncated).tolist(),
        queue_ms=embedded.queue_s * 1000,
        embed_ms=embedded.embed_s * 1000,
    )
