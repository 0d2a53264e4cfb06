"""Commands from web to workers: load a model, unload one; and what came of them.

Each worker has a list of its own in Redis, each command one for its outcomes. A list keeps a command while a worker's
connection is down, which a channel does not; one that nobody took expires.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

import orjson
from redis import Redis

from shared import keys
from shared.presence import PresenceBoard

# A command that its worker did not take by then is stale: whoever gave it was answered long ago.
EXPIRE_S = 60
# How long a blocking read lasts before it looks whether it should stop.
BLOCK_S = 1.0

Verb = Literal["load", "unload"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a worker is to do with a model."""

    verb: Verb
    model: str
    within_s: float  # what is not done by then is reported as it stands, and goes on
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a command on one worker."""

    worker: str
    state: str  # of `load` a ModelState; of `unload` one of: unloaded, not loaded, in use
    reason: str | None = None


class ControlClient:
    """Web's end."""

    def __init__(self, redis: Redis, blocking: Redis, board: PresenceBoard) -> None:
        """`redis` is for commands, its timeout short; `blocking` waits for outcomes, its timeout above BLOCK_S."""
        self._redis = redis
        self._blocking = blocking
        self._board = board

    def order(self, command: Command, workers: Iterable[str]) -> Iterator[Outcome]:
        """Send it to these workers; their outcomes as they come, until all that live have told or the time is over.

        Raises RedisError.
        """
        waited_for = set(workers)
        deadline = time.monotonic() + command.within_s + BLOCK_S  # who is late by a breath is heard
        pipeline = self._redis.pipeline(transaction=True)
        for worker in waited_for:
            pipeline.rpush(keys.control(worker), orjson.dumps(asdict(command)))
            pipeline.expire(keys.control(worker), EXPIRE_S)
        pipeline.execute()
        while waited_for and (left_s := deadline - time.monotonic()) > 0:
            found = cast(Any, self._blocking.blpop([keys.control_outcomes(command.id)], timeout=min(left_s, BLOCK_S)))
            if found is None:
                waited_for = {worker for worker in waited_for if self._board.is_alive(worker)}
                continue
            outcome = _read(Outcome, found[1])
            waited_for.discard(outcome.worker)
            yield outcome


class ControlServer:
    """A worker's end."""

    def __init__(self, redis: Redis, worker_id: str) -> None:
        """The timeout of `redis` lies above BLOCK_S."""
        self._redis = redis
        self._worker_id = worker_id

    def take(self, block_s: float = BLOCK_S) -> Command | None:
        """The next command; None if none came in time. Raises RedisError, and ValueError for one that cannot be read."""
        found = cast(Any, self._redis.blpop([keys.control(self._worker_id)], timeout=block_s))
        return None if found is None else _read(Command, found[1])

    def tell(self, command: Command, state: str, reason: str | None = None) -> None:
        """What came of it. Raises RedisError."""
        outcome = Outcome(worker=self._worker_id, state=state, reason=reason)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.rpush(keys.control_outcomes(command.id), orjson.dumps(asdict(outcome)))
        pipeline.expire(keys.control_outcomes(command.id), EXPIRE_S)
        pipeline.execute()


def _read(kind: Any, raw: bytes) -> Any:
    """Fields of a newer version are passed over. Raises ValueError."""
    fields = orjson.loads(raw)
    try:
        return kind(**{name: value for name, value in fields.items() if name in kind.__dataclass_fields__})
    except (TypeError, AttributeError) as error:
        raise ValueError(str(error)) from None
