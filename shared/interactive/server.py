"""AskServer: a worker's end of the lane."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis
from redis.exceptions import ResponseError

from shared import keys
from shared.errors import UmekomiError
from shared.interactive.scripts import ANSWER, GIVE_BACK, LEAVE, TAKE_OVER
from shared.interactive.wire import (
    ANSWERS_EXPIRE_S,
    BLOCK_S,
    MAX_BYTES_OF_LENGTH,
    Answer,
    Ask,
    decode_ask,
    encode_answer,
    encode_moved,
)
from shared.keys import AskLength
from shared.logs import get_logger
from shared.redis_line import Line
from shared.scripts import run_script

logger = get_logger(__name__)

# An ask that Redis counts as ours for so long, and of which we know nothing, was read and lost on its way to us.
LOST_IN_READING_MS = 2000
# Answers that go to a web process together; a single larger one goes alone. Redis does nothing else meanwhile.
MAX_BYTES_OF_CALL = 2**20


@dataclass(frozen=True, slots=True)
class TakenAsk:
    """An ask that this worker has to answer, and where the answer goes."""

    ask: Ask
    length: AskLength
    entry: str  # its id in its stream
    reply_to: str
    size: int  # bytes
    taken_at: float  # monotonic seconds


class AskServer:
    """The worker's end: `take` blocks for asks, `answer` sends many answers in one round trip."""

    def __init__(self, redis: Redis, worker_id: str) -> None:
        """The timeout of `redis` lies above BLOCK_S. `take` is for one thread a length; the rest may be called from any."""
        self._redis = redis
        self._taking = {length: Line(redis) for length in MAX_BYTES_OF_LENGTH}
        self._answering, self._looking = Line(redis), Line(redis)
        self.worker_id = worker_id
        self._take_over = redis.register_script(TAKE_OVER)
        self._held: set[tuple[str, str]] = set()  # (stream, entry) taken and not answered

    def take(self, models: Iterable[str], max_asks: int, block_s: float = BLOCK_S, length: AskLength = "short") -> list[TakenAsk]:
        """Up to `max_asks` new asks of a length per model; [] if none came within `block_s`. Raises RedisError."""
        return self._take(self._taking[length], models, max_asks, block_s, length)

    def _take(self, line: Line, models: Iterable[str], max_asks: int, block_s: float, length: AskLength) -> list[TakenAsk]:
        by_stream = {keys.asks(model, length): model for model in models}
        if not by_stream:
            return []
        wanted = ("COUNT", max_asks, "BLOCK", max(1, int(block_s * 1000)), "STREAMS", *by_stream, *(">" for _ in by_stream))
        try:
            found = line.call("XREADGROUP", "GROUP", keys.ASK_GROUP, self.worker_id, *wanted)
        except ResponseError as error:
            # NOGROUP: the first reader of the lane, or a wiped Redis; UNBLOCKED: the stream was deleted under us.
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            self._make_groups(by_stream)
            return []
        # A mapping in RESP3, pairs before.
        batches = found.items() if isinstance(found, Mapping) else found or ()
        taken: list[TakenAsk] = []
        for stream, entries in batches:
            taken += self._parse(by_stream[_text(stream)], length, entries)
        return taken

    def take_over(self, models: Iterable[str], is_alive: Callable[[str], bool]) -> list[TakenAsk]:
        """The asks of workers that died with them, and our own that a broken connection lost. Raises RedisError."""
        taken: list[TakenAsk] = []
        for model, length in ((model, length) for model in models for length in MAX_BYTES_OF_LENGTH):
            stream = keys.asks(model, length)
            try:
                consumers = cast(Any, self._redis.xinfo_consumers(stream, keys.ASK_GROUP))
            except ResponseError:
                continue  # no lane yet
            for consumer in consumers:
                name = _text(consumer["name"])
                if name == self.worker_id:
                    taken += self._lost_in_reading(model, length)
                elif not is_alive(name):
                    entries = self._take_over(keys=[stream], args=[keys.ASK_GROUP, name, self.worker_id])
                    taken += self._parse(model, length, cast(Any, entries))
        return taken

    def is_served(self, model: str) -> bool:
        """Whether a live worker takes asks of the model. Raises RedisError."""
        seconds, microseconds = cast(Any, self._redis.time())
        return bool(self._redis.zcount(keys.able(model), seconds + microseconds / 1e6, "+inf"))

    def has_asks(self, model: str) -> bool:
        """Whether asks of the model wait, or are being run. Raises RedisError."""
        return any(self._redis.xlen(keys.asks(model, length)) for length in MAX_BYTES_OF_LENGTH)

    def take_what_is_there(self, model: str, max_asks: int) -> list[TakenAsk]:
        """Asks of every length, of a model from whose streams nobody else here takes. Raises RedisError."""
        return [ask for length in MAX_BYTES_OF_LENGTH for ask in self._take(self._looking, [model], max_asks, 0.001, length)]

    def answer(self, answers: Sequence[tuple[TakenAsk, Answer | UmekomiError]]) -> None:
        """Push the answers and take their asks out of the lane, each of them at once or not at all. Raises RedisError."""
        calls: list[tuple[list[str], list[Any]]] = []
        open_calls: dict[str, tuple[list[str], list[Any], int]] = {}  # by web process; and the bytes of the answers
        for taken, answer in answers:
            stream = keys.asks(taken.ask.model, taken.length)
            # Even if Redis is away: then it still counts as ours there, and `take_over` finds it again.
            self._held.discard((stream, taken.entry))
            encoded = encode_answer(taken.ask.id, answer)
            streams, said, size = open_calls.get(taken.reply_to, ([], [], MAX_BYTES_OF_CALL))
            if size + len(encoded) > MAX_BYTES_OF_CALL:
                streams, said, size = [taken.reply_to], [keys.ASK_GROUP, ANSWERS_EXPIRE_S], 0
                calls.append((streams, said))
            streams += (stream, keys.asks_bytes(taken.ask.model, taken.length))
            said += (taken.entry, taken.size, encoded)
            open_calls[taken.reply_to] = streams, said, size + len(encoded)
        run_script(self._answering, ANSWER, calls)

    def give_back(self, asks: Sequence[TakenAsk]) -> None:
        """Let other workers have these asks at once, as if they came just now; their askers hear of it. Raises RedisError."""
        calls = []
        for taken in asks:
            stream = keys.asks(taken.ask.model, taken.length)
            self._held.discard((stream, taken.entry))
            told = encode_moved(taken.ask.id)
            args = (keys.ASK_GROUP, taken.entry, self.worker_id, told, ANSWERS_EXPIRE_S)
            calls.append(((stream, taken.reply_to), args))
        run_script(self._answering, GIVE_BACK, calls)

    def _lost_in_reading(self, model: str, length: AskLength) -> list[TakenAsk]:
        stream = keys.asks(model, length)
        pending = self._redis.xpending_range(
            stream, keys.ASK_GROUP, "-", "+", 1024, consumername=self.worker_id, idle=LOST_IN_READING_MS
        )
        entries = [_text(entry["message_id"]) for entry in cast(Any, pending)]
        lost = [entry for entry in entries if (stream, entry) not in self._held]
        if not lost:
            return []
        claimed = self._redis.xclaim(stream, keys.ASK_GROUP, self.worker_id, LOST_IN_READING_MS, cast(Any, lost))
        return self._parse(model, length, cast(Any, claimed))

    def _make_groups(self, streams: Iterable[str]) -> None:
        for stream in streams:
            try:
                self._redis.xgroup_create(stream, keys.ASK_GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    def _parse(self, model: str, length: AskLength, entries: Iterable[Any]) -> list[TakenAsk]:
        taken = []
        stream, stream_bytes = keys.asks(model, length), keys.asks_bytes(model, length)
        for entry, found in entries:
            if not found:
                continue  # answered by another worker in the meantime
            # A script answers with a flat list of names and values.
            pairs = found.items() if isinstance(found, Mapping) else zip(found[::2], found[1::2], strict=True)
            values = {_text(name): value for name, value in pairs}
            try:
                one = TakenAsk(
                    decode_ask(values["ask"]), length, _text(entry), _text(values["to"]), int(values["size"]), time.monotonic()
                )
            except (KeyError, ValueError, TypeError) as error:
                # Left in the lane it would stop every worker in turn.
                logger.error("unreadable ask dropped", model=model, error=type(error).__name__)
                size = _text(values.get("size", b"0"))
                size = size if size.isascii() and size.isdecimal() else "0"
                self._redis.eval(LEAVE, 2, stream, stream_bytes, keys.ASK_GROUP, _text(entry), size)
                continue
            taken.append(one)
            self._held.add((stream, _text(entry)))
        return taken


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
