"""How a model's interactive lane stands: what waits there, and since when, as an operator wants to know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redis import Redis

from shared import keys
from shared.interactive.wire import MAX_BYTES_OF_LENGTH
from shared.scripts import run_script

# KEYS: stream, its bytes. -> asks, bytes, milliseconds since the oldest came (-1: none). The ask itself stays there: it is long.
STANDING = """
local asks = redis.call('XLEN', KEYS[1])
local bytes = tonumber(redis.call('GET', KEYS[2]) or '0')
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
if #first == 0 then return {asks, bytes, -1} end
local time = redis.call('TIME')
local came = tonumber(string.match(first[1][1], '^(%d+)'))
return {asks, bytes, math.max(0, math.floor(time[1] * 1000 + time[2] / 1000 - came))}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStanding:
    """Asks without an answer: those that wait, and those that a worker has taken."""

    asks: int
    bytes: int
    oldest_s: float | None  # None: there is none


def standings(redis: Redis, models: Sequence[str]) -> dict[str, LaneStanding]:
    """How the lane of each model stands. Raises RedisError."""
    lanes = [(keys.asks(model, length), keys.asks_bytes(model, length)) for model in models for length in MAX_BYTES_OF_LENGTH]
    found = run_script(redis, STANDING, [(lane, ()) for lane in lanes]) if lanes else []
    lengths = len(MAX_BYTES_OF_LENGTH)
    standing = {}
    for number, model in enumerate(models):
        of_model = found[number * lengths : (number + 1) * lengths]
        oldest_ms = max((ms for _, _, ms in of_model), default=-1)
        standing[model] = LaneStanding(
            asks=sum(asks for asks, _, _ in of_model),
            # The bytes of a lane that ran empty are forgotten only when the next ask enters it.
            bytes=sum(size for asks, size, _ in of_model if asks),
            oldest_s=None if oldest_ms < 0 else oldest_ms / 1000,
        )
    return standing
