"""Applied models: what POST /models/apply wants, and how far it is. The record lies in Redis, a worker does the work.

Web writes the wish and may cancel it; the worker that holds the wish's lease writes the state. A worker that dies holds it no
longer than LEASE_S: another one takes the wish, and goes on from the bytes that lie on its machine.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import orjson
from redis import Redis

from shared import keys

LEASE_S = 15.0
# What came of it can be asked for so long after its end; a wish that no worker took is forgotten after as long.
EXPIRE_S = 7 * 86_400
# The list of all is bounded; the oldest go.
MAX_RECORDS = 200
# A worker that died over it so often is not asked again.
MAX_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A model that is to be fetched and served."""

    entry: Mapping[str, Any]  # as it will stand in the models directory; checked
    file: str  # the name of the file there
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created_at: float = field(default_factory=time.time)  # unix seconds

    @property
    def name(self) -> str:
        """What callers will put in `model`."""
        return str(self.entry["name"])


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far it is; `is_over` with an error, or without one."""

    message: str = "waiting for a worker"
    is_over: bool = False
    error: str | None = None
    file: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    done_files: int = 0
    total_files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A wish, its state, and whether somebody cancelled it."""

    wish: Wish
    state: State
    is_cancelled: bool = False


# KEYS: lock. ARGV: worker, milliseconds. -> 1 if the lock is the worker's; one that nobody has becomes its.
_HOLD = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


class DownloadBoard:
    """Every method raises RedisError if Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    # Web's end

    def add(self, wish: Wish) -> Download:
        """A new wish; whichever worker sees it first takes it."""
        self._write(wish, State())
        return Download(wish=wish, state=State())

    def get(self, download_id: str) -> Download | None:
        """None if there is no such wish, or it is long over."""
        return _read(cast(Any, self._redis.hgetall(keys.download(download_id))))

    def all(self) -> list[Download]:
        """The newest first."""
        ids = [found.decode() for found in cast(Any, self._redis.zrevrange(keys.DOWNLOADS, 0, MAX_RECORDS - 1))]
        pipeline = self._redis.pipeline(transaction=False)
        for download_id in ids:
            pipeline.hgetall(keys.download(download_id))
        return [found for raw in pipeline.execute() if (found := _read(raw)) is not None]

    def cancel(self, download_id: str) -> Download | None:
        """The worker that has it ends soon; what it fetched is kept. None if there is no such wish."""
        found = self.get(download_id)
        if found is None or found.state.is_over:
            return found
        self._redis.hset(keys.download(download_id), "cancelled", "1")
        return self.get(download_id)

    # The worker's end

    def hold(self, download_id: str, worker_id: str) -> bool:
        """Take or renew the lease. False if another worker has it."""
        lock = keys.lock(f"download:{download_id}")
        return bool(self._redis.eval(_HOLD, 1, lock, worker_id, str(int(LEASE_S * 1000))))

    def release(self, download_id: str, worker_id: str) -> None:
        """Another worker may take it at once."""
        lock = keys.lock(f"download:{download_id}")
        if cast(Any, self._redis.get(lock)) == worker_id.encode():
            self._redis.delete(lock)

    def attempt(self, download_id: str) -> int:
        """Which one this is, from 1."""
        return int(cast(Any, self._redis.hincrby(keys.download(download_id), "attempts", 1)))

    def write(self, wish: Wish, state: State) -> bool:
        """Tell how far it is; whether somebody cancelled it. A record that Redis lost is written anew."""
        self._write(wish, state)
        return bool(self._redis.hexists(keys.download(wish.id), "cancelled"))

    def _write(self, wish: Wish, state: State) -> None:
        key = keys.download(wish.id)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hset(key, mapping={"wish": orjson.dumps(asdict(wish)), "state": orjson.dumps(asdict(state))})
        pipeline.expire(key, EXPIRE_S)
        pipeline.zadd(keys.DOWNLOADS, {wish.id: wish.created_at})
        pipeline.zremrangebyrank(keys.DOWNLOADS, 0, -MAX_RECORDS - 1)
        pipeline.expire(keys.DOWNLOADS, EXPIRE_S)
        pipeline.execute()


def _read(raw: Mapping[bytes, bytes]) -> Download | None:
    """Fields of a newer version are passed over, and what cannot be read at all: the others go on."""
    if b"wish" not in raw:
        return None
    wish, state = orjson.loads(raw[b"wish"]), orjson.loads(raw[b"state"])
    try:
        return Download(
            wish=Wish(**{name: value for name, value in wish.items() if name in Wish.__dataclass_fields__}),
            state=State(**{name: value for name, value in state.items() if name in State.__dataclass_fields__}),
            is_cancelled=b"cancelled" in raw,
        )
    except TypeError:
        return None
