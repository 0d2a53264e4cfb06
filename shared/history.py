"""History: what all workers together did in each of the last steps, for a chart that survives restarts of whoever looks.

Workers say in their presence what they did since they started; whoever leads takes the differences and writes them down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import orjson
from redis import Redis

from shared import keys
from shared.presence import WorkerPresence

STEP_S = 5.0
STEPS = 144  # twelve minutes
_EXPIRE_S = 3600

# (worker, model, lane) -> texts, tokens
Totals = Mapping[tuple[str, str, str], tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What was done in `seconds` up to `at` (unix seconds), by lane."""

    at: float
    seconds: float
    texts: Mapping[str, int]
    tokens: Mapping[str, int]


def totals(workers: Iterable[WorkerPresence]) -> Totals:
    """What each worker did so far."""
    return {(worker.id, done.model, done.lane): (done.texts, done.tokens) for worker in workers for done in worker.done}


def between(before: Totals, after: Totals, *, at: float, seconds: float) -> Step:
    """What was done between two looks. Who came since counts from nothing; what a worker that left did last is not known."""
    texts: dict[str, int] = {}
    tokens: dict[str, int] = {}
    for key, (texts_after, tokens_after) in after.items():
        texts_before, tokens_before = before.get(key, (0, 0))
        lane = key[2]
        texts[lane] = texts.get(lane, 0) + max(0, texts_after - texts_before)
        tokens[lane] = tokens.get(lane, 0) + max(0, tokens_after - tokens_before)
    return Step(at=at, seconds=seconds, texts=texts, tokens=tokens)


class History:
    """The steps in Redis. Methods raise RedisError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(self, step: Step) -> None:
        """One more; the oldest goes."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.lpush(keys.HISTORY, orjson.dumps(asdict(step)))
        pipeline.ltrim(keys.HISTORY, 0, STEPS - 1)
        pipeline.expire(keys.HISTORY, _EXPIRE_S)
        pipeline.execute()

    def read(self) -> list[Step]:
        """All there are, the oldest first."""
        raw = cast(Any, self._redis.lrange(keys.HISTORY, 0, -1))
        return [Step(**orjson.loads(step)) for step in reversed(raw)]
