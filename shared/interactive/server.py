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
from shared.interactive.scripts import ANSWER, LEAVE, TAKE_OVER
from shared.interactive.wire import ANSWERS_EXPIRE_S, BLOCK_S, Answer, Ask, decode_ask, encode_answer
from shared.logs import get_logger

logger = get_logger(__name__)

# An ask that Redis counts as ours for so long, and of which we know nothing, was read and lost on its way to us.
LOST_IN_READING_MS = 2000


@dataclass(frozen=True, slots=True)
class TakenAsk:
    """An ask that this worker has to answer, and where the answer goes."""

    ask: Ask
    entry: str
    reply_to: str
    size: int
    taken_at: float  # monotonic seconds


class AskServer:
    """The worker's end: `take` blocks for asks, `answer` sends many answers in one round trip."""

    def __init__(self, redis: Redis, worker_id: str) -> None:
        """The timeout of `redis` lies above BLOCK_S. `take` is for one thread; the rest may be called from any."""
        self._redis = redis
        self._worker_id = worker_id
        self._take_over = redis.register_script(TAKE_OVER)
        self._held: set[tuple[str, str]] = set()  # (model, entry) taken and not answered

    def take(self, models: Iterable[str], max_asks: int, block_s: float = BLOCK_S) -> list[TakenAsk]:
        """Up to `max_asks` new asks per model; [] if none came within `block_s`. Raises RedisError."""
        by_stream = {keys.asks(model): model for model in models}
        streams: dict[Any, Any] = dict.fromkeys(by_stream, ">")
        if not streams:
            return []
        try:
            found = cast(
                Any,
                self._redis.xreadgroup(
                    keys.ASK_GROUP, self._worker_id, streams, count=max_asks, block=max(1, int(block_s * 1000))
                ),
            )
        except ResponseError as error:
            # NOGROUP: the first reader of the lane, or a wiped Redis; UNBLOCKED: the stream was deleted under us.
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            self._make_groups(streams)
            return []
        # RESP3 answers with a mapping, and wraps each stream's entries in one more list.
        batches = found.items() if isinstance(found, Mapping) else found or ()
        taken: list[TakenAsk] = []
        for stream, entries in batches:
            flat = entries[0] if entries and isinstance(entries[0], list) else entries
            taken += self._parse(by_stream[_text(stream)], flat)
        return taken

    def take_over(self, models: Iterable[str], is_alive: Callable[[str], bool]) -> list[TakenAsk]:
        """The asks of workers that died with them, and our own that a broken connection lost. Raises RedisError."""
        taken: list[TakenAsk] = []
        for model in models:
            stream = keys.asks(model)
            try:
                consumers = cast(Any, self._redis.xinfo_consumers(stream, keys.ASK_GROUP))
            except ResponseError:
                continue  # no lane yet
            for consumer in consumers:
                name = _text(consumer["name"])
                if name == self._worker_id:
                    taken += self._lost_in_reading(model)
                elif not is_alive(name):
                    entries = self._take_over(keys=[stream], args=[keys.ASK_GROUP, name, self._worker_id])
                    taken += self._parse(model, cast(Any, entries))
        return taken

    def answer(self, answers: Sequence[tuple[TakenAsk, Answer | UmekomiError]]) -> None:
        """Push the answers and take their asks out of the lane, each of them at once or not at all. Raises RedisError."""
        pipeline = self._redis.pipeline(transaction=False)
        for taken, answer in answers:
            stream, size = keys.asks(taken.ask.model), keys.asks_bytes(taken.ask.model)
            # Even if Redis is away: then it still counts as ours there, and `take_over` finds it again.
            self._held.discard((taken.ask.model, taken.entry))
            encoded = encode_answer(taken.ask.id, answer)
            args = (keys.ASK_GROUP, taken.entry, taken.size, encoded, ANSWERS_EXPIRE_S)
            # EVAL, not EVALSHA: a pipeline would first ask whether the script is known, one more round trip.
            pipeline.eval(ANSWER, 3, stream, size, taken.reply_to, *cast(Any, args))
        pipeline.execute()

    def _lost_in_reading(self, model: str) -> list[TakenAsk]:
        stream = keys.asks(model)
        pending = self._redis.xpending_range(
            stream, keys.ASK_GROUP, "-", "+", 1024, consumername=self._worker_id, idle=LOST_IN_READING_MS
        )
        entries = [_text(entry["message_id"]) for entry in cast(Any, pending)]
        lost = [entry for entry in entries if (model, entry) not in self._held]
        if not lost:
            return []
        claimed = self._redis.xclaim(stream, keys.ASK_GROUP, self._worker_id, LOST_IN_READING_MS, cast(Any, lost))
        return self._parse(model, cast(Any, claimed))

    def _make_groups(self, streams: Iterable[str]) -> None:
        for stream in streams:
            try:
                self._redis.xgroup_create(stream, keys.ASK_GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    def _parse(self, model: str, entries: Iterable[Any]) -> list[TakenAsk]:
        taken = []
        for entry, found in entries:
            if not found:
                continue  # answered by another worker in the meantime
            # A script answers with a flat list of names and values.
            pairs = found.items() if isinstance(found, Mapping) else zip(found[::2], found[1::2], strict=True)
            values = {_text(name): value for name, value in pairs}
            try:
                ask = decode_ask(values["ask"])
            except (ValueError, TypeError) as error:
                # Left in the lane it would stop every worker in turn.
                logger.error("unreadable ask dropped", model=model, error=str(error))
                stream, size = keys.asks(model), keys.asks_bytes(model)
                self._redis.eval(LEAVE, 2, stream, size, keys.ASK_GROUP, _text(entry), _text(values["size"]))
                continue
            taken.append(TakenAsk(ask, _text(entry), _text(values["to"]), int(values["size"]), time.monotonic()))
            self._held.add((model, _text(entry)))
        return taken


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
