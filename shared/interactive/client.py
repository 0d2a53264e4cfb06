"""AskClient: web's end of the lane."""

from __future__ import annotations

import struct
import threading
import time
import uuid
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError

from shared import keys
from shared.errors import DeadlinePassed, LaneFull, NoWorker, RedisAway, UmekomiError, Unavailable
from shared.interactive.scripts import ARE_THERE, ENTER, LEAVE
from shared.interactive.wire import ANSWERS_EXPIRE_S, BLOCK_S, Answer, Ask, decode_answer, encode_ask
from shared.logs import get_logger

logger = get_logger(__name__)

# No answer: it ends the blocking read of a client that is to stop.
_WAKE = b""
# An unanswered ask so old is looked for in its stream after a reconnect or a wipe, and sent again if it is gone.
MISSING_AFTER_S = 2.0


@dataclass(slots=True)
class _Waiting:
    ask: Ask
    raw: bytes
    entry: str
    sent_at: float  # monotonic seconds
    future: Future[Answer] = field(default_factory=Future)


class AskClient:
    """Web's end: `ask` blocks its thread until the answer, an error or the deadline. One per process, made after the fork."""

    def __init__(self, redis: Redis, blocking: Redis, *, max_waiting: int, max_waiting_bytes: int) -> None:
        """`redis` is for commands, its timeout short; `blocking` waits for answers, its timeout above BLOCK_S."""
        self._redis = redis
        self._blocking = blocking
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._enter = redis.register_script(ENTER)
        self.web_id = uuid.uuid4().hex
        self._waiting: dict[str, _Waiting] = {}
        self._given_up: deque[_Waiting] = deque()
        self._stopping = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="answers", daemon=True)

    def start(self) -> None:
        """Start listening for answers."""
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
        for waiting in list(self._waiting.values()):
            self._fail(waiting, Unavailable("the server is stopping", retry_after_s=1))

    @property
    def waiting(self) -> int:
        """Asks of this process without an answer."""
        return len(self._waiting)

    def ask(self, ask: Ask) -> Answer:
        """The answer. Raises LaneFull, NoWorker, RedisAway at once, DeadlinePassed at the deadline, or the worker's error."""
        if ask.deadline <= time.time():
            raise DeadlinePassed("the deadline passed before the ask could be sent")
        waiting = _Waiting(ask, encode_ask(ask), "", time.monotonic())
        self._waiting[ask.id] = waiting
        try:
            self._send(waiting)
            return waiting.future.result(timeout=max(0.0, ask.deadline - time.time()))
        except TimeoutError:
            self._given_up.append(waiting)
            raise DeadlinePassed("the answer did not come in time; the server is overloaded", retry_after_s=2) from None
        finally:
            self._waiting.pop(ask.id, None)

    def _send(self, waiting: _Waiting) -> None:
        model = waiting.ask.model
        try:
            entry = self._enter(
                keys=[keys.able(model), keys.asks(model), keys.asks_bytes(model)],
                args=[
                    waiting.raw,
                    len(waiting.raw),
                    keys.answers(self.web_id),
                    waiting.ask.deadline,
                    self._max_waiting,
                    self._max_waiting_bytes,
                    keys.ASK_GROUP,
                ],
            )
        except RedisError as error:
            raise RedisAway(f"Redis cannot be reached ({type(error).__name__})", retry_after_s=2) from error
        entry = entry.decode() if isinstance(entry, bytes) else str(entry)
        if entry == "no-worker":
            raise NoWorker(f"no live worker serves the model {model!r}", retry_after_s=3)
        if entry == "full":
            raise LaneFull(f"too many requests wait for the model {model!r}", retry_after_s=1)
        waiting.entry, waiting.sent_at = entry, time.monotonic()

    def _listen(self) -> None:
        answers = keys.answers(self.web_id)
        looked_at = time.monotonic()
        while not self._stopping.is_set():
            try:
                found = cast(Any, self._blocking.blmpop(BLOCK_S, 1, answers, direction="LEFT", count=64))
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
        waiting = self._waiting.pop(ask_id, None)
        if waiting is None or waiting.future.done():
            return  # a second answer, or one that came after the deadline
        if isinstance(answer, UmekomiError):
            waiting.future.set_exception(answer)
        else:
            waiting.future.set_result(answer)

    @staticmethod
    def _fail(waiting: _Waiting, error: UmekomiError) -> None:
        if not waiting.future.done():
            waiting.future.set_exception(error)

    def _take_out_given_up(self) -> None:
        """Asks whose deadline passed take up no room in the lane any longer, whether a worker has them or not."""
        pipeline = self._redis.pipeline(transaction=False)
        while self._given_up:
            waiting = self._given_up.popleft()
            stream, size = keys.asks(waiting.ask.model), keys.asks_bytes(waiting.ask.model)
            pipeline.eval(LEAVE, 2, stream, size, keys.ASK_GROUP, waiting.entry, str(len(waiting.raw)))
        if len(pipeline):
            pipeline.execute()

    def _send_lost_again(self) -> None:
        """Redis lost its memory (a wipe, a crash without the last second of its log): the asks it forgot go in again."""
        before = time.monotonic() - MISSING_AFTER_S
        old: dict[str, list[_Waiting]] = {}
        for waiting in list(self._waiting.values()):
            if waiting.entry and waiting.sent_at < before:
                old.setdefault(waiting.ask.model, []).append(waiting)
        if not old:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for model, asks in old.items():
            pipeline.eval(ARE_THERE, 1, keys.asks(model), *(waiting.entry for waiting in asks))
        gone = [
            waiting
            for asks, there in zip(old.values(), pipeline.execute(), strict=True)
            for waiting, is_there in zip(asks, there, strict=True)
            if not is_there
        ]
        # It may have left the stream because its answer is on the way: those in our list are taken first.
        while gone and (found := cast(Any, self._redis.lpop(keys.answers(self.web_id), 64))):
            for raw in found:
                self._deliver(raw)
        for waiting in gone:
            if waiting.ask.id not in self._waiting:
                continue
            try:
                self._send(waiting)
                logger.warning("lost ask sent again", ask=waiting.ask.id, model=waiting.ask.model)
            except (NoWorker, RedisAway):
                pass  # both may be back before the deadline: tried again in a second
            except UmekomiError as error:
                self._fail(waiting, error)
