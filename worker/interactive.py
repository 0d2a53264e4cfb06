"""The worker's end of the interactive lane: asks go to the engine as they come, answers go back many at a time."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Literal

import numpy as np
from redis.exceptions import RedisError

from shared import metrics, traces
from shared.errors import EngineFailed, ModelNotFound, UmekomiError, Unavailable
from shared.interactive import Answer, AskServer, TakenAsk
from shared.keys import AskLength
from shared.logs import get_logger
from shared.models import Models
from worker.engine import Embedded, EmbedRequest, Engine
from worker.questions import Questions
from worker.spans import trace_ask
from worker.threads import essential_thread
from worker.work import Withdrawn

logger = get_logger(__name__)

# Asks taken at once from each of a model's streams: enough to fill a batch, few enough to leave some to other workers.
ASKS_AT_ONCE: dict[AskLength, int] = {"short": 64, "medium": 4, "long": 1}
# An ask has about so many bytes for each token that the model reads.
BYTES_OF_TOKEN = 4
# Answers sent in one round trip.
ANSWERS_AT_ONCE = 128


class AskLoop:
    """One thread sends answers, one gives asks back; for each length of asks one takes them, while more work is of use here.

    The answer of an ask that is alone is sent by the thread that has it: nobody else's waits meanwhile.

    If other workers live, that is as much as keeps this one busy for a few batches: what is more they may take. A worker
    that is alone takes all there is, for the engine knows better than a queue what is due next. One that is to stop gives
    back what it has not begun, if another worker has the model loaded, and answers the rest.
    """

    def __init__(
        self,
        server: AskServer,
        engine: Engine,
        registry: Models,
        retire: Callable[[Iterable[str]], set[str]] = lambda _: set(),
    ) -> None:
        """`retire`: say that this worker takes no more asks of these models, and tell which of them others go on serving."""
        self._retire = retire
        self._left_to_others: set[str] = set()  # models, while this worker is stopping
        self._server = server
        self._engine = engine
        self._registry = registry
        self._answers: queue.SimpleQueue[tuple[TakenAsk, Answer | UmekomiError] | None] = queue.SimpleQueue()
        self._questions = Questions(engine.submit, engine.identity)
        self._draining = threading.Event()
        self._is_alone = False
        self._once_served: set[str] = set()  # models
        self._unanswered = 0
        self._unanswered_bytes: dict[AskLength, Counter[str]] = {length: Counter() for length in ASKS_AT_ONCE}  # by model
        self._answered = threading.Condition()
        self._sending = threading.Lock()  # held by the one thread that sends
        self._takers = [essential_thread(partial(self._take, length), f"asks-{length}") for length in ASKS_AT_ONCE]
        self._answerer = essential_thread(self._answer, "answers")
        self._returner = essential_thread(self._return, "asks-back")

    def start(self) -> None:
        """Begin taking asks."""
        for taker in self._takers:
            taker.start()
        self._answerer.start()
        self._returner.start()

    def drain(self) -> None:
        """Take no more, and give back what is not begun; returns at once."""
        self._draining.set()

    def stop(self, within_s: float = 20.0) -> None:
        """Send the answers of all that was taken and not given back, then end the threads."""
        self._draining.set()
        for thread in (*self._takers, self._returner):
            thread.join()
        with self._answered:
            if not self._answered.wait_for(lambda: self._unanswered == 0, timeout=within_s):
                logger.error("asks left unanswered", asks=self._unanswered)
        self._answers.put(None)
        self._answerer.join()

    def take_over(self, is_alive: set[str]) -> None:
        """Run the asks of workers that are not among the living. Raises RedisError."""
        if self._draining.is_set():
            return
        self._is_alone = is_alive <= {self._server.worker_id}
        taken = self._server.take_over(self._models(), lambda worker_id: worker_id in is_alive)
        if taken:
            metrics.ASKS_TAKEN_OVER.inc(len(taken))
            logger.warning("asks of a dead worker taken over", asks=len(taken))
            self._run(taken)

    def refuse_departed(self) -> None:
        """Answer the asks left of models that went out of the configuration, if nobody else serves them. Raises RedisError."""
        if self._draining.is_set():
            return
        served = self._engine.model_states().keys()
        for model in self._once_served - served:
            self._retire([model])  # from now on asks enter only if another worker is there
            if not self._server.has_asks(model):
                self._once_served.discard(model)
            elif not self._server.is_served(model):
                self._run(self._server.take_what_is_there(model, ASKS_AT_ONCE["short"]))
        self._once_served |= served

    def _models(self) -> list[str]:
        # A model that does not load here may do so elsewhere: its asks are left to others.
        return [name for name, state in self._engine.model_states().items() if state != "failed"]

    def _take(self, length: AskLength) -> None:
        while not self._draining.is_set():
            try:
                models = self._models()
                if not models:
                    self._draining.wait(1.0)
                elif self._wait_for_room(length, 1.0):
                    self._run(self._server.take(models, ASKS_AT_ONCE[length], length=length))
            except RedisError as error:
                logger.warning("asks not readable", error=type(error).__name__)
                self._draining.wait(0.5)

    def _wait_for_room(self, length: AskLength, within_s: float) -> bool:
        """Until asks of this length are wanted here; False if that takes longer. Asks whose model loads stop nobody."""
        if self._is_alone:
            return True
        loading = {name for name, state in self._engine.model_states().items() if state != "ready"}
        most_bytes = self._engine.ample_tokens * BYTES_OF_TOKEN

        def is_room() -> bool:
            unanswered = self._unanswered_bytes[length]
            return sum(size for model, size in unanswered.items() if model not in loading) < most_bytes

        with self._answered:
            return self._answered.wait_for(is_room, within_s)

    def _count(self, asks: Iterable[TakenAsk], sign: Literal[1, -1]) -> None:
        with self._answered:
            for taken in asks:
                self._unanswered += sign
                self._unanswered_bytes[taken.length][taken.ask.model] += sign * taken.size
            if sign < 0:
                self._answered.notify_all()

    def _return(self) -> None:
        """Once this worker is to stop: what the device has not begun is another worker's at once."""
        self._draining.wait()
        try:
            self._left_to_others = self._retire(self._models())
        except RedisError as error:
            logger.warning("asks kept", error=type(error).__name__)
        self._engine.withdraw(self._left_to_others)

    def _run(self, asks: Sequence[TakenAsk]) -> None:
        self._count(asks, 1)
        with self._engine.together():
            self._submit(asks)

    def _submit(self, asks: Sequence[TakenAsk]) -> None:
        for taken in asks:
            if taken.ask.model in self._left_to_others:  # it came with the last look into the lane
                self._answers.put((taken, Withdrawn("this worker is stopping", retry_after_s=1)))
                continue
            try:
                future = self._questions.submit(self._request(taken))
            except UmekomiError as error:
                self._answers.put((taken, error))
                continue
            except Exception as error:  # whatever was sent to us, the others are to be answered
                logger.exception("ask not run", ask=taken.ask.id)
                self._answers.put((taken, EngineFailed(f"the request could not be read ({type(error).__name__})")))
                continue
            future.add_done_callback(partial(self._done, taken))

    def _done(self, taken: TakenAsk, future: Future[Embedded]) -> None:
        answer = to_answer(future)
        if traces.is_on():
            trace_ask(taken, answer, time.time())
        if not self._sent_at_once(taken, answer):
            self._answers.put((taken, answer))

    def _sent_at_once(self, taken: TakenAsk, answer: Answer | UmekomiError) -> bool:
        if self._unanswered != 1 or isinstance(answer, Withdrawn) or not self._sending.acquire(blocking=False):
            return False
        try:
            self._server.answer([(taken, answer)])
        except Exception:  # whatever it is: the thread for it tries again, and says so
            return False
        finally:
            self._sending.release()
        self._count([taken], -1)
        return True

    def _request(self, taken: TakenAsk) -> EmbedRequest:
        ask = taken.ask
        model = self._registry.models.get(ask.model)
        if model is None:
            raise ModelNotFound(f"the model {ask.model!r} is not served here", param="model")
        return EmbedRequest(
            model=model,
            lane="interactive",
            texts=ask.texts,
            token_ids=ask.token_ids,
            deadline=ask.deadline,
            dimensions=ask.dimensions,
            prompt_name=ask.prompt_name,
            input_type=ask.input_type,
            truncate=ask.truncate,
            kind=ask.kind,
            query=ask.query,
            special_tokens=ask.special_tokens,
            detail=ask.detail,
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
            with self._sending:
                self._send(batch)
            self._count((taken for taken, _ in batch), -1)

    def _send(self, batch: list[tuple[TakenAsk, Answer | UmekomiError]]) -> None:
        """Until Redis takes them, or nobody waits for them any more."""
        while batch:
            try:
                withdrawn = [taken for taken, answer in batch if isinstance(answer, Withdrawn)]
                if withdrawn:
                    self._server.give_back(withdrawn)
                    logger.info("asks given back", asks=len(withdrawn))
                    batch = [(taken, answer) for taken, answer in batch if not isinstance(answer, Withdrawn)]
                if batch:
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
        split=embedded.split,
        texts=embedded.texts,
        max_tokens=embedded.max_tokens,
    )
