"""AskClient: web's end of the lane."""

from __future__ import annotations

import struct
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError

from shared import keys, metrics, traces
from shared.errors import DeadlinePassed, NoWorker, RedisAway, UmekomiError, Unavailable
from shared.interactive.scripts import ARE_THERE, LEAVE
from shared.interactive.sending import Sender, Waiting
from shared.interactive.wire import ANSWERS_EXPIRE_S, BLOCK_S, Answer, Ask, Moved, decode_answer, encode_ask
from shared.logs import get_logger
from shared.redis_line import Line

logger = get_logger(__name__)

# No answer: it ends the blocking read of a client that is to stop.
_WAKE = b""
# An unanswered ask so old is looked for in its stream after a reconnect or a wipe, and sent again if it is gone.
MISSING_AFTER_S = 2.0


class AskClient:
    """Web's end: `ask` blocks its thread until the answer, an error or the deadline. One per process, made after the fork."""

    def __init__(
        self,
        redis: Redis,
        blocking: Redis,
        *,
        max_waiting: int,
        max_waiting_bytes: int,
        explain: Callable[[str], UmekomiError | None] = lambda _: None,
    ) -> None:
        """`redis` is for commands, its timeout short; `blocking` waits for answers, its timeout above BLOCK_S.

        `explain` tells why a model gave no answer, if that is known: its files are still on their way, it does not load.
        """
        self._explain = explain
        self._redis = redis
        self._line = Line(blocking)
        self.web_id = uuid.uuid4().hex
        self._waiting: dict[str, Waiting] = {}
        self._given_up: deque[Waiting] = deque()
        self._sender = Sender(
            redis,
            keys.answers(self.web_id),
            max_waiting=max_waiting,
            max_waiting_bytes=max_waiting_bytes,
            is_wanted=lambda waiting: waiting.ask.id in self._waiting,
        )
        self._stopping = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="answers", daemon=True)

    def start(self) -> None:
        """Start listening for answers."""
        self._sender.start()
        self._listener.start()

    def stop(self) -> None:
        """Stop listening; returns when the thread is gone. Whoever still waits is told that the server stops."""
        self._stopping.set()
        if self._listener.ident is not None:
            with suppress(RedisError):  # then it notices by itself, within BLOCK_S
                pipeline = self._redis.pipeline(transaction=True)
                pipeline.rpush(keys.answers(self.web_id), _WAKE)
                pipeline.expire(keys.answers(self.web_id), ANSWERS_EXPIRE_S)
                pipeline.execute()
            self._listener.join()
        self._sender.stop()
        for waiting in list(self._waiting.values()):
            waiting.fail(Unavailable("the server is stopping", retry_after_s=1))

    @property
    def waiting(self) -> int:
        """Asks of this process without an answer."""
        return len(self._waiting)

    def ask(self, ask: Ask) -> Answer:
        """The answer. Raises LaneFull, NoWorker or why there is none, RedisAway, DeadlinePassed, or the worker's error."""
        if ask.deadline <= time.time():
            raise DeadlinePassed("the deadline passed before the ask could be sent")
        if not traces.is_on():
            return self._ask(ask)
        with traces.span("ask", kind="client", facts={"model": ask.model, "kind": ask.kind, "texts": len(ask)}) as span:
            answer = self._ask(replace(ask, traceparent=span.traceparent))
            span.tell({"tokens": sum(answer.tokens)})
            return answer

    def _ask(self, ask: Ask) -> Answer:
        waiting = Waiting(ask, encode_ask(ask))
        self._waiting[ask.id] = waiting
        try:
            began_at = time.monotonic()
            self._sender.send(waiting)
            answer = waiting.future.result(timeout=max(0.0, ask.deadline - time.time()))
            _count(ask, answer, time.monotonic() - began_at)
            return answer
        except TimeoutError:
            self._given_up.append(waiting)
            late = DeadlinePassed("the answer did not come in time; the server is overloaded", retry_after_s=2)
            raise self._explain(ask.model) or late from None
        except (DeadlinePassed, NoWorker) as error:  # the worker says so; none can, and one may have said why
            raise self._explain(ask.model) or error from None
        finally:
            self._waiting.pop(ask.id, None)

    def _listen(self) -> None:
        answers = keys.answers(self.web_id)
        looked_at = time.monotonic()
        while not self._stopping.is_set():
            try:
                found = self._line.call("BLMPOP", BLOCK_S, 1, answers, "LEFT", "COUNT", 64)
                for raw in found[1] if found else ():
                    if raw != _WAKE:
                        self._deliver(raw)
                if time.monotonic() - looked_at >= BLOCK_S:
                    looked_at = time.monotonic()
                    self._take_out_given_up()
                    self._send_lost_again()
            except RedisError as error:
                logger.warning("answers not readable", error=type(error).__name__)
                self._stopping.wait(0.2)
            except Exception:  # whatever it is, those who wait depend on this thread
                logger.exception("answers not delivered")
                self._stopping.wait(0.2)

    def _deliver(self, raw: bytes) -> None:
        try:
            ask_id, answer = decode_answer(raw)
        except (struct.error, ValueError, KeyError, TypeError):
            logger.exception("unreadable answer passed over", bytes=len(raw))
            return
        if isinstance(answer, Moved):
            moved = self._waiting.get(ask_id)
            if moved is not None:
                moved.entry = answer.entry
            return
        waiting = self._waiting.pop(ask_id, None)
        if waiting is None or waiting.future.done():
            return  # a second answer, or one that came after the deadline
        if isinstance(answer, UmekomiError):
            waiting.future.set_exception(answer)
        else:
            waiting.future.set_result(answer)

    def _take_out_given_up(self) -> None:
        """Asks whose deadline passed take up no room in the lane any longer, whether a worker has them or not."""
        pipeline = self._redis.pipeline(transaction=False)
        while self._given_up:
            waiting = self._given_up.popleft()
            if not waiting.entry:
                continue  # it never was in
            args = (keys.ASK_GROUP, waiting.entry, str(len(waiting.raw)))
            pipeline.eval(LEAVE, 2, waiting.stream, waiting.stream_bytes, *args)
        if len(pipeline):
            pipeline.execute()

    def _send_lost_again(self) -> None:
        """Redis lost its memory (a wipe, a crash without the last second of its log): the asks it forgot go in again."""
        before = time.monotonic() - MISSING_AFTER_S
        old: dict[str, list[tuple[Waiting, str]]] = {}
        for waiting in list(self._waiting.values()):
            if waiting.entry and waiting.sent_at < before:
                old.setdefault(waiting.stream, []).append((waiting, waiting.entry))
        if not old:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for stream, asks in old.items():
            pipeline.eval(ARE_THERE, 1, stream, *(entry for _, entry in asks))
        gone = [
            ask
            for asks, there in zip(old.values(), pipeline.execute(), strict=True)
            for ask, is_there in zip(asks, there, strict=True)
            if not is_there
        ]
        # It may have left the stream because its answer, or word of its new place, is on the way: our list is read first.
        while gone and (found := cast(Any, self._redis.lpop(keys.answers(self.web_id), 64))):
            for raw in found:
                self._deliver(raw)
        for waiting, entry in gone:
            if waiting.ask.id not in self._waiting or waiting.entry != entry:
                continue
            (error,) = self._sender.enter([waiting])
            if error is None:
                metrics.ASKS_SENT_AGAIN.inc(1)
                logger.warning("lost ask sent again", ask=waiting.ask.id, model=waiting.ask.model)
            elif not isinstance(error, NoWorker | RedisAway):  # both may be back before the deadline: tried again in a second
                waiting.fail(error)


def _count(ask: Ask, answer: Answer, seconds: float) -> None:
    metrics.ASK_SECONDS.observe(seconds, ask.model)
    metrics.ASK_QUEUE_SECONDS.observe(answer.queue_ms / 1000, ask.model)
    metrics.ASK_TEXTS.inc(len(ask), ask.model)
    metrics.ASK_TOKENS.inc(sum(answer.tokens), ask.model)
