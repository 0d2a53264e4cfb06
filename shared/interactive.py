"""The interactive lane: asks from web to any worker that serves the model, and answers back, through Redis.

A model's asks wait in a stream with a consumer group; each web process has a list that its answers come to. An ask
leaves the stream in the same transaction that pushes its answer, so one whose worker died is still there and another
worker takes it over. The lane is bounded when an ask enters, by one script: no live worker, or too much waiting, is
said at once. Nothing polls: both ends block in Redis.

An ask is answered at least once; web passes over a second answer. One that nobody waits for any more leaves the lane:
its web process takes it out at the deadline, and if that is gone too, whoever finds the lane full does.
"""

from __future__ import annotations

import struct
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, cast

import numpy as np
import orjson
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from shared import keys
from shared.errors import DeadlinePassed, LaneFull, NoWorker, RedisAway, UmekomiError, Unavailable, from_wire, to_wire
from shared.logs import get_logger

logger = get_logger(__name__)

# A web process that is gone reads no answers: they vanish after so long.
ANSWERS_EXPIRE_S = 60
# No answer: it ends the blocking read of a client that is to stop.
_WAKE = b""
# How long a blocking read lasts before it looks whether it should stop; Redis ends it at once when something comes.
BLOCK_S = 1.0
# An unanswered ask so old is looked for in its stream after a reconnect or a wipe, and sent again if it is gone.
MISSING_AFTER_S = 2.0
# An ask that Redis counts as ours for so long, and of which we know nothing, was read and lost on its way to us.
LOST_IN_READING_MS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Texts that a client waits for. Exactly one of `texts` and `token_ids` is given."""

    id: str  # unique: two asks of one process that wait at once never share it
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


# KEYS: able, stream, bytes. ARGV: ask, size, reply_to, deadline, max_waiting, max_waiting_bytes, group.
# -> entry id, or "no-worker", "full". Asks past their deadline make room, oldest first; looked at only when there is none.
_ENTER = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
if redis.call('ZCOUNT', KEYS[1], now, '+inf') == 0 then return 'no-worker' end
local waiting = redis.call('XLEN', KEYS[2])
local bytes = tonumber(redis.call('GET', KEYS[3]) or '0')
local function is_full()
    return waiting >= tonumber(ARGV[5]) or (waiting > 0 and bytes + ARGV[2] > tonumber(ARGV[6]))
end
for _ = 1, 100 do
    if not is_full() then break end
    local head = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
    if not head or tonumber(head[2][8]) >= now then break end
    redis.call('XACK', KEYS[2], ARGV[7], head[1])
    redis.call('XDEL', KEYS[2], head[1])
    waiting = waiting - 1
    bytes = redis.call('DECRBY', KEYS[3], head[2][6])
end
if waiting == 0 then redis.call('DEL', KEYS[3]) end
if is_full() then return 'full' end
redis.call('INCRBY', KEYS[3], ARGV[2])
return redis.call('XADD', KEYS[2], '*', 'ask', ARGV[1], 'to', ARGV[3], 'size', ARGV[2], 'until', ARGV[4])
"""

# KEYS: stream, bytes. ARGV: group, entry id, size. The bytes shrink only if it was this call that took the ask out.
_LEAVE = """
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if redis.call('XDEL', KEYS[1], ARGV[2]) == 1 then redis.call('DECRBY', KEYS[2], ARGV[3]) end
"""

# KEYS: stream, bytes, answers. ARGV: group, entry id, size, answer, expiry in s.
_ANSWER = (
    """
redis.call('RPUSH', KEYS[3], ARGV[4])
redis.call('EXPIRE', KEYS[3], ARGV[5])
"""
    + _LEAVE
)

# KEYS: stream. ARGV: entry ids. -> 1 or 0 for each; the asks themselves, which may be large, stay where they are.
_ARE_THERE = """
local there = {}
for position, entry in ipairs(ARGV) do there[position] = #redis.call('XRANGE', KEYS[1], entry, entry) end
return there
"""

# KEYS: stream. ARGV: group, dead consumer, our consumer. -> entries, ours from now on. One script, so that two workers
# that find the same dead one never both get an ask of its. The consumer goes once it holds nothing (what it holds would go too).
_TAKE_OVER = """
local ids = {}
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 128, ARGV[2])) do ids[#ids + 1] = pending[1] end
local taken = {}
if #ids > 0 then taken = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, unpack(ids)) end
if #ids < 128 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
return taken
"""


def _encode_ask(ask: Ask) -> bytes:
    values = {field.name: getattr(ask, field.name) for field in fields(ask)}
    return orjson.dumps({name: value for name, value in values.items() if value is not None and value != () and value != []})


def _decode_ask(raw: bytes) -> Ask:
    """What `_encode_ask` wrote; fields of a newer version are passed over."""
    return Ask(**{name: value for name, value in orjson.loads(raw).items() if name in Ask.__dataclass_fields__})


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
        self._enter = redis.register_script(_ENTER)
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
        waiting = _Waiting(ask, _encode_ask(ask), "", time.monotonic())
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
            pipeline.eval(_LEAVE, 2, stream, size, keys.ASK_GROUP, waiting.entry, str(len(waiting.raw)))
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
            pipeline.eval(_ARE_THERE, 1, keys.asks(model), *(waiting.entry for waiting in asks))
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
        self._take_over = redis.register_script(_TAKE_OVER)
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
            pipeline.eval(_ANSWER, 3, stream, size, taken.reply_to, *cast(Any, args))
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
                ask = _decode_ask(values["ask"])
            except (ValueError, TypeError) as error:
                # Left in the lane it would stop every worker in turn.
                logger.error("unreadable ask dropped", model=model, error=str(error))
                stream, size = keys.asks(model), keys.asks_bytes(model)
                self._redis.eval(_LEAVE, 2, stream, size, keys.ASK_GROUP, _text(entry), _text(values["size"]))
                continue
            taken.append(TakenAsk(ask, _text(entry), _text(values["to"]), int(values["size"]), time.monotonic()))
            self._held.add((model, _text(entry)))
        return taken


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
