"""Asks on their way into the lane: those of many threads in one round trip, and one alone without a detour.

The thread that finds nobody sending sends all that lie there, its own ask among them. What came meanwhile is sent by a
thread that does nothing else, so that nobody sends for others while his own answer lies there.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from redis import Redis
from redis.exceptions import RedisError

from shared import keys
from shared.errors import LaneFull, NoWorker, RedisAway, UmekomiError
from shared.interactive.scripts import ENTER
from shared.interactive.wire import Answer, Ask, length_of
from shared.logs import get_logger
from shared.redis_line import Line
from shared.scripts import Call, run_script

logger = get_logger(__name__)

# Asks of one round trip, and their bytes: a large one shall not hold up the others.
MAX_ASKS = 64
MAX_BYTES = 2**20


@dataclass(slots=True, eq=False)
class Waiting:
    """An ask of this process without an answer."""

    ask: Ask
    raw: bytes
    entry: str = ""  # its id in its stream, once it is there
    sent_at: float = 0.0  # monotonic seconds
    future: Future[Answer] = field(default_factory=Future)

    @property
    def stream(self) -> str:
        """Where it waits."""
        return keys.asks(self.ask.model, length_of(len(self.raw)))

    @property
    def stream_bytes(self) -> str:
        """What counts the bytes there."""
        return keys.asks_bytes(self.ask.model, length_of(len(self.raw)))

    def fail(self, error: UmekomiError) -> None:
        """It gets no answer but this."""
        if not self.future.done():
            self.future.set_exception(error)


class Sender:
    """Puts asks into the lane. Thread-safe."""

    def __init__(
        self,
        redis: Redis,
        reply_to: str,
        *,
        max_waiting: int,
        max_waiting_bytes: int,
        is_wanted: Callable[[Waiting], bool],
    ) -> None:
        """`is_wanted` tells whether an ask still waits for its answer."""
        self._line = Line(redis)
        self._reply_to = reply_to
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._is_wanted = is_wanted
        self._outbox: deque[Waiting] = deque()
        self._sending = threading.Lock()
        self._left_over = threading.Event()
        self._stopping = False
        self._helper = threading.Thread(target=self._help, name="asks", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._helper.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping = True
        self._left_over.set()
        if self._helper.ident is not None:
            self._helper.join()

    def send(self, waiting: Waiting) -> None:
        """The ask is in the lane soon; if it cannot be, its future says why."""
        self._outbox.append(waiting)
        if self._sending.acquire(blocking=False):
            try:
                self._send_some()
            finally:
                self._sending.release()
            if self._outbox:
                self._left_over.set()
        # Else whoever sends looks once more after having let go of the lock.

    def enter(self, asks: Sequence[Waiting]) -> list[UmekomiError | None]:
        """Put these in now, in one round trip; for each why it is not in."""
        try:
            entries = run_script(self._line, ENTER, [self._call(waiting) for waiting in asks])
        except RedisError as error:
            return [RedisAway(f"Redis cannot be reached ({type(error).__name__})", retry_after_s=2)] * len(asks)
        now = time.monotonic()
        wrong: list[UmekomiError | None] = []
        for waiting, raw in zip(asks, entries, strict=True):
            entry, model = raw.decode() if isinstance(raw, bytes) else str(raw), waiting.ask.model
            if entry == "no-worker":
                wrong.append(NoWorker(f"no live worker serves the model {model!r}", retry_after_s=3))
            elif entry == "full":
                wrong.append(LaneFull(f"too many requests wait for the model {model!r}", retry_after_s=1))
            else:
                waiting.entry, waiting.sent_at = entry, now
                wrong.append(None)
        return wrong

    def _call(self, waiting: Waiting) -> Call:
        limits = (self._max_waiting, self._max_waiting_bytes, keys.ASK_GROUP)
        streams = (keys.able(waiting.ask.model), waiting.stream, waiting.stream_bytes)
        return streams, (waiting.raw, len(waiting.raw), self._reply_to, waiting.ask.deadline, *limits)

    def _help(self) -> None:
        while not self._stopping:
            self._left_over.wait()
            self._left_over.clear()
            while self._outbox:
                try:
                    with self._sending:
                        self._send_some()
                except Exception:  # whatever it is, those who come next depend on this thread
                    logger.exception("asks not sent")

    def _send_some(self) -> None:
        """Those that came first; whatever goes wrong, they hear of it."""
        asks: list[Waiting] = []
        size = 0
        while self._outbox and len(asks) < MAX_ASKS and (not asks or size + len(self._outbox[0].raw) <= MAX_BYTES):
            waiting = self._outbox.popleft()
            if self._is_wanted(waiting):
                asks.append(waiting)
                size += len(waiting.raw)
        if not asks:
            return
        try:
            wrong = self.enter(asks)
        except Exception:
            for waiting in asks:
                waiting.fail(UmekomiError("the request could not be passed on"))
            raise
        for waiting, error in zip(asks, wrong, strict=True):
            if error is not None:
                waiting.fail(error)
