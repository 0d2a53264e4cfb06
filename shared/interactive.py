"""The interactive lane: asks from web to any worker that serves the model, and answers back, through Redis.

A model's asks wait in a stream with a consumer group; each web process has a list that its answers come to. An ask
leaves the stream in the same transaction that pushes its answer, so one whose worker died is still there and another
worker takes it over. The lane is bounded when an ask enters, by one script: no live worker, or too much waiting, is
said at once. Nothing polls: both ends block in Redis.

An ask is answered at least once; web passes over a second answer.
"""

from __future__ import annotations

import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import orjson
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from shared import keys
from shared.errors import DeadlinePassed, LaneFull, NoWorker, RedisAway, UmekomiError, from_wire, to_wire
from shared.logs import get_logger

logger = get_logger(__name__)

# A web process that is gone reads no answers: they vanish after so long.
ANSWERS_EXPIRE_S = 60
# How long a blocking read lasts before it looks whether it should stop; Redis ends it at once when something comes.
BLOCK_S = 1.0
# An unanswered ask so old is looked for in its stream after a reconnect or a wipe, and sent again if it is gone.
MISSING_AFTER_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Texts that a client waits for. Exactly one of `texts` and `token_ids` is given."""

    id: str
    model: str
    deadline: float  # unix seconds
    texts: Sequence[str] = ()
    token_ids: Sequence[Sequence[int]] = ()
    dimensions: int | None = None
    prompt_name: str | None = None
    input_type: str | None = None  # query or document
    truncate: str | None = None  # end or error; None: as the model says

    def __len__(self) -> int:
        return len(self.texts) or len(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The vectors of an ask, in its order."""

    vectors: np.ndarray[Any, np.dtype[np.float32]]  # float32 [texts, dimensions]
    tokens: Sequence[int]  # tokens that went through the model, special ones too, by text
    truncated: Sequence[int] = ()  # positions of the texts that were cut
    queue_ms: float = 0.0  # from the arrival at the worker to the first batch
    embed_ms: float = 0.0  # from the first batch to the last vector


_HEADER = struct.Struct("<I")


def encode_answer(ask_id: str, answer: Answer | UmekomiError) -> bytes:
    """Length of the header, header (JSON), vectors (little-endian float32, row by row)."""
    if isinstance(answer, UmekomiError):
        header = orjson.dumps({"id": ask_id, "error": to_wire(answer), "retry_after_s": getattr(answer, "retry_after_s", None)})
        return _HEADER.pack(len(header)) + header
    header = orjson.dumps(
        {
            "id": ask_id,
            "shape": answer.vectors.shape,
            "tokens": list(answer.tokens),
            "truncated": list(answer.truncated),
            "queue_ms": answer.queue_ms,
            "embed_ms": answer.embed_ms,
        }
    )
    return b"".join((_HEADER.pack(len(header)), header, np.ascontiguousarray(answer.vectors, dtype="<f4").tobytes()))


def decode_answer(raw: bytes) -> tuple[str, Answer | UmekomiError]:
    """What `encode_answer` wrote: the ask's id, and its answer or error."""
    (length,) = _HEADER.unpack_from(raw)
    header = orjson.loads(memoryview(raw)[_HEADER.size : _HEADER.size + length])
    if "error" in header:
        error = from_wire(header["error"])
        if header.get("retry_after_s") is not None:
            error.retry_after_s = header["retry_after_s"]  # type: ignore[attr-defined]
        return header["id"], error
    vectors = np.frombuffer(raw, dtype="<f4", offset=_HEADER.size + length).reshape(header["shape"])
    answer = Answer(
        vectors=vectors,
        tokens=header["tokens"],
        truncated=header["truncated"],
        queue_ms=header["queue_ms"],
        embed_ms=header["embed_ms"],
    )
    return header["id"], answer


# KEYS: able, stream, bytes. ARGV: ask, size, reply_to, max_waiting, max_waiting_bytes. -> entry id, or "no-worker", "full".
_ENTER = """
local now = redis.call('TIME')
local alive = redis.call('ZCOUNT', KEYS[1], now[1] + now[2] / 1000000, '+inf')
if alive == 0 then return 'no-worker' end
local waiting = redis.call('XLEN', KEYS[2])
local bytes = tonumber(redis.call('GET', KEYS[3]) or '0')
if waiting == 0 then bytes = 0 redis.call('DEL', KEYS[3]) end
if waiting >= tonumber(ARGV[4]) or (waiting > 0 and bytes + ARGV[2] > tonumber(ARGV[5])) then return 'full' end
redis.call('INCRBY', KEYS[3], ARGV[2])
return redis.call('XADD', KEYS[2], '*', 'ask', ARGV[1], 'to', ARGV[3], 'size', ARGV[2])
"""

# KEYS: stream, bytes. ARGV: group, entry id, size. The bytes shrink only if it was this call that took the ask out.
_LEAVE = """
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if redis.call('XDEL', KEYS[1], ARGV[2]) == 1 then redis.call('DECRBY', KEYS[2], ARGV[3]) end
"""


def _encode_ask(ask: Ask) -> bytes:
    return orjson.dumps({name: value for name, value in asdict(ask).items() if value not in (None, (), [])})


@dataclass(slots=True)
class _Waiting:
    ask: Ask
    raw: bytes
    entry: str
    sent_at: float  # monotonic seconds
    future: Future[Answer] = field(default_factory=Future)


class AskClient:
    """Web's end: `ask` blocks its thread until the answer, an error or the deadline. One per process, made after the fork."""

    def __init__(self, redis: Redis, *, max_waiting: int, max_waiting_bytes: int) -> None:
        self._redis = redis
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._enter = redis.register_script(_ENTER)
        self.web_id = uuid.uuid4().hex
        self._waiting: dict[str, _Waiting] = {}
        self._stopping = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="answers", daemon=True)

    def start(self) -> None:
        """Start listening for answers."""
        self._listener.start()

    def stop(self) -> None:
        """Stop listening; returns when the thread is gone."""
        self._stopping.set()
        self._listener.join()

    @property
    def waiting(self) -> int:
        """Asks of this process without an answer."""
        return len(self._waiting)

    def ask(self, ask: Ask) -> Answer:
        """The answer. Raises LaneFull, NoWorker, RedisAway at once, DeadlinePassed at the deadline, or the worker's error."""
        raw = _encode_ask(ask)
        waiting = _Waiting(ask, raw, "", time.monotonic())
        self._waiting[ask.id] = waiting
        try:
            self._send(waiting)
            return waiting.future.result(timeout=max(0.0, ask.deadline - time.time()))
        except FutureTimeout:
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
                    self._max_waiting,
                    self._max_waiting_bytes,
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
                found = cast(Any, self._redis.blmpop(BLOCK_S, 1, answers, direction="LEFT", count=64))
                for raw in found[1] if found else ():
                    self._deliver(raw)
                if time.monotonic() - looked_at >= BLOCK_S:
                    looked_at = time.monotonic()
                    self._send_lost_again()
            except RedisError as error:
                logger.warning("answers not readable", error=type(error).__name__)
                self._stopping.wait(0.2)

    def _deliver(self, raw: bytes) -> None:
        ask_id, answer = decode_answer(raw)
        waiting = self._waiting.pop(ask_id, None)
        if waiting is None or waiting.future.done():
            return  # a second answer, or one that came after the deadline
        if isinstance(answer, UmekomiError):
            waiting.future.set_exception(answer)
        else:
            waiting.future.set_result(answer)

    def _send_lost_again(self) -> None:
        """Redis lost its memory (a wipe, a crash without the last second of its log): the asks it forgot go in again."""
        before = time.monotonic() - MISSING_AFTER_S
        old = [waiting for waiting in list(self._waiting.values()) if waiting.entry and waiting.sent_at < before]
        if not old:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for waiting in old:
            pipeline.xrange(keys.asks(waiting.ask.model), waiting.entry, waiting.entry)
        gone = [waiting for waiting, there in zip(old, pipeline.execute(), strict=True) if not there]
        # It may have left the stream because its answer is on the way: those in our list are taken first.
        for raw in cast(Any, self._redis.lpop(keys.answers(self.web_id), 1024)) or ():
            self._deliver(raw)
        for waiting in gone:
            if waiting.ask.id not in self._waiting:
                continue
            try:
                self._send(waiting)
                logger.warning("lost ask sent again", ask=waiting.ask.id, model=waiting.ask.model)
            except NoWorker:
                waiting.sent_at = time.monotonic()  # a worker may come back before the deadline
            except UmekomiError as error:
                if not waiting.future.done():
                    waiting.future.set_exception(error)


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
        self._redis = redis
        self._worker_id = worker_id
        self._leave = redis.register_script(_LEAVE)

    def take(self, models: Iterable[str], max_asks: int, block_s: float = BLOCK_S) -> list[TakenAsk]:
        """Up to `max_asks` new asks per model; [] if none came within `block_s`. Raises RedisError."""
        streams: dict[Any, Any] = {keys.asks(model): ">" for model in models}
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
        batches = found.items() if isinstance(found, Mapping) else found or ()
        taken: list[TakenAsk] = []
        for _, entries in batches:
            # RESP3 wraps each stream's entries in one more list.
            flat = entries[0] if entries and isinstance(entries[0], list) else entries
            taken += self._parse(flat)
        return taken

    def take_over(self, models: Iterable[str], is_alive: Callable[[str], bool]) -> list[TakenAsk]:
        """The asks of workers that died with them; ours from now on. Raises RedisError."""
        taken: list[TakenAsk] = []
        for model in models:
            stream = keys.asks(model)
            try:
                consumers = cast(Any, self._redis.xinfo_consumers(stream, keys.ASK_GROUP))
            except ResponseError:
                continue  # no lane yet
            for consumer in consumers:
                name = _text(consumer["name"])
                if name == self._worker_id or is_alive(name):
                    continue
                while entries := self._pending(stream, name):
                    claimed = self._redis.xclaim(stream, keys.ASK_GROUP, self._worker_id, 0, cast(Any, entries))
                    taken += self._parse(cast(Any, claimed))
                    if len(entries) < 128:
                        break
                # Only when it holds nothing: deleting a consumer drops what it holds from the pending list.
                if not self._pending(stream, name):
                    self._redis.xgroup_delconsumer(stream, keys.ASK_GROUP, name)
        return taken

    def answer(self, answers: Sequence[tuple[TakenAsk, Answer | UmekomiError]]) -> None:
        """Push the answers and take their asks out of the lane, each in one transaction. Raises RedisError."""
        pipeline = self._redis.pipeline(transaction=True)
        for taken, answer in answers:
            pipeline.rpush(taken.reply_to, encode_answer(taken.ask.id, answer))
            pipeline.expire(taken.reply_to, ANSWERS_EXPIRE_S)
            stream, size = keys.asks(taken.ask.model), keys.asks_bytes(taken.ask.model)
            self._leave(keys=[stream, size], args=[keys.ASK_GROUP, taken.entry, taken.size], client=pipeline)
        pipeline.execute()

    def _pending(self, stream: str, consumer: str) -> list[str]:
        found = self._redis.xpending_range(stream, keys.ASK_GROUP, "-", "+", 128, consumername=consumer)
        return [_text(entry["message_id"]) for entry in cast(Any, found)]

    def _make_groups(self, streams: Iterable[str]) -> None:
        for stream in streams:
            try:
                self._redis.xgroup_create(stream, keys.ASK_GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    def _parse(self, entries: Iterable[Any]) -> list[TakenAsk]:
        taken = []
        for entry, fields in entries:
            if not fields:
                continue  # answered by another worker in the meantime
            values = {_text(name): value for name, value in fields.items()}
            ask = Ask(**orjson.loads(values["ask"]))
            taken.append(TakenAsk(ask, _text(entry), _text(values["to"]), int(values["size"]), time.monotonic()))
        return taken


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
