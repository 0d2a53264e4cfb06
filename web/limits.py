"""Rates: the requests and tokens that a key may use in a minute, as buckets in Redis that fill up all the time.

A bucket holds what the key may use in a minute and is full at first; what is used goes out of it, and it fills at the rate of a
minute's use a minute. So whoever used everything waits for what the next request needs and not for the end of a window, the
headers tell what OpenAI's tell, and Retry-After is when the same request passes. Where no limit is set Redis is not asked.

Redis being away lets requests through: it is for the lane to refuse them, and nobody is locked out by a limiter.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Literal, cast

from flask import Response, g, has_request_context
from redis import Redis
from redis.exceptions import RedisError

from shared import keys, metrics
from shared.errors import RateLimited, TooLarge, UmekomiError
from shared.interactive import Answer, Ask, AskClient
from shared.logs import get_logger
from web.auth import Caller
from web.latencies import Latencies

logger = get_logger(__name__)

MINUTE_S = 60.0
# After a failure of Redis nothing is counted for so long: a frozen one would cost every request its time-out.
PAUSE_S = 5.0
# UTF-8 bytes that count as a token until the real ones are known: what English has, and Japanese about.
BYTES_PER_TOKEN = 4

# What the device computes; splitting a text costs next to nothing.
COSTING = frozenset({"embed", "rerank"})

Kind = Literal["requests", "tokens"]

# KEYS: bucket. ARGV: size, cost, seconds in which it fills, 1 to take it even if it is not there. -> 1 if taken, level.
# A level may be below nothing: what was estimated too low is owed, up to a whole bucket.
TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local size, cost, fills_in = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local was = redis.call('HMGET', KEYS[1], 'level', 'at')
local level = size
if was[1] and was[2] then level = math.min(size, was[1] + math.max(0, now - was[2]) * size / fills_in) end
if ARGV[4] == '0' and level < cost then return {0, tostring(level)} end
level = math.max(-size, math.min(size, level - cost))
redis.call('HSET', KEYS[1], 'level', tostring(level), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil((size - level) / size * fills_in * 1000) + 1000)
return {1, tostring(level)}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How a bucket stands."""

    size: int
    level: float

    @property
    def remaining(self) -> int:
        """What may be used now."""
        return max(0, math.floor(self.level))

    @property
    def reset_s(self) -> float:
        """When it is full, if nothing is used."""
        return (self.size - self.level) * MINUTE_S / self.size

    def wait_s(self, cost: float) -> float:
        """When it holds the cost. A millisecond more, since clients round, and Redis' clock has its own idea of now."""
        return max(0.0, cost - self.level) * MINUTE_S / self.size + 0.001


class Meter:
    """What callers use, counted in Redis for all web processes together."""

    def __init__(self, redis: Redis) -> None:
        self._take = redis.register_script(TAKE)
        self._paused_until = 0.0

    def request(self, caller: Caller) -> Rate | None:
        """One request of the caller's; None if nothing is counted. Raises RateLimited."""
        return self._spend(caller, "requests", caller.allowance.requests_per_minute, 1)

    def tokens(self, caller: Caller, count: int) -> Rate | None:
        """So many tokens, probably. Raises RateLimited, TooLarge if it is more than the caller has in a minute."""
        size = caller.allowance.tokens_per_minute
        if size and count > size:
            raise TooLarge(
                f"input: about {count} tokens, and this API key has {size} in a minute; send fewer texts", param="input"
            )
        return self._spend(caller, "tokens", size, count)

    def settle(self, caller: Caller, more: int) -> Rate | None:
        """So many tokens more than was thought, or fewer."""
        size = caller.allowance.tokens_per_minute
        found = self._ask_redis("tokens", caller.owner, size, more, is_owed=True) if size else None
        return None if found is None else found[1]

    def _spend(self, caller: Caller, kind: Kind, size: int, cost: int) -> Rate | None:
        found = self._ask_redis(kind, caller.owner, size, cost, is_owed=False) if size else None
        if found is None:
            return None
        was_taken, rate = found
        if not was_taken:
            wait_s = rate.wait_s(cost)
            needed = f", this request needs about {cost}" if kind == "tokens" else ""
            message = (
                f"rate limit reached: {size} {kind} per minute, {rate.remaining} left{needed}; try again in {duration(wait_s)}"
            )
            _tell(kind, rate)
            metrics.RATE_LIMITED.inc(1, kind)
            raise RateLimited(message, what=kind, retry_after_s=wait_s)
        return rate

    def _ask_redis(self, kind: Kind, owner: str, size: int, cost: int, *, is_owed: bool) -> tuple[bool, Rate] | None:
        if time.monotonic() < self._paused_until:
            return None
        bucket = keys.requests(owner) if kind == "requests" else keys.tokens(owner)
        try:
            was_taken, level = cast(Any, self._take(keys=[bucket], args=[size, cost, MINUTE_S, int(is_owed)]))
        except RedisError as error:
            self._paused_until = time.monotonic() + PAUSE_S
            logger.warning("rates not counted, Redis is away", error=type(error).__name__)
            return None
        return bool(was_taken), Rate(size=size, level=float(level))


class MeteredAsks(AskClient):
    """Asks that cost their caller tokens: an estimate before, which may be refused, and the rest when the answer says."""

    def __init__(self, meter: Meter, redis: Redis, blocking: Redis, **options: Any) -> None:
        super().__init__(redis, blocking, **options)
        self._meter = meter
        self.latencies = Latencies()

    def ask(self, ask: Ask) -> Answer:
        """As AskClient's. Raises RateLimited and TooLarge besides."""
        began = time.monotonic()
        try:
            answer = self._metered(ask)
        except (RateLimited, TooLarge):
            raise  # it never was an ask
        except UmekomiError:
            self.latencies.failed(ask.model)
            raise
        self.latencies.answered(ask.model, time.monotonic() - began)
        return answer

    def _metered(self, ask: Ask) -> Answer:
        caller: Caller | None = g.get("caller") if has_request_context() else None
        if caller is None or not caller.allowance.tokens_per_minute or ask.kind not in COSTING:
            return super().ask(ask)
        estimate = estimated_tokens(ask)
        _tell("tokens", self._meter.tokens(caller, estimate))
        try:
            answer = super().ask(ask)
        except UmekomiError:
            _tell("tokens", self._meter.settle(caller, -estimate))  # nothing was run
            raise
        _tell("tokens", self._meter.settle(caller, sum(answer.tokens) - estimate))
        return answer


def estimated_tokens(ask: Ask) -> int:
    """Of token ids the truth, of texts what their length suggests; a query is read with each text."""
    query_bytes = len((ask.query or "").encode("utf-8", "surrogatepass"))
    sizes = (len(text.encode("utf-8", "surrogatepass")) + query_bytes for text in ask.texts)
    return sum(map(len, ask.token_ids)) + sum(max(1, size // BYTES_PER_TOKEN) for size in sizes)


def _tell(kind: Kind, rate: Rate | None) -> None:
    """Remember how the bucket stands, for the headers."""
    if rate is not None and has_request_context():
        g.rates = {**g.get("rates", {}), kind: rate}


def count_request(meter: Meter, caller: Caller) -> None:
    """The request that is being handled counts. Raises RateLimited."""
    _tell("requests", meter.request(caller))


def tell_rates(response: Response) -> None:
    """OpenAI's x-ratelimit headers, of those limits that the caller has."""
    rates: dict[Kind, Rate] = g.get("rates", {})
    for kind, rate in rates.items():
        response.headers[f"x-ratelimit-limit-{kind}"] = str(rate.size)
        response.headers[f"x-ratelimit-remaining-{kind}"] = str(rate.remaining)
        response.headers[f"x-ratelimit-reset-{kind}"] = duration(rate.reset_s)


def duration(seconds: float) -> str:
    """As OpenAI writes it: 12ms, 1s, 8.64s, 6m0s, 1h0m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    hundredths = math.ceil(round(seconds * 100, 6))
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 100:g}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
