"""Connections to Redis: opened in one way everywhere, so that a dead or frozen server never holds a caller for long."""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel

from shared import metrics
from shared.sentinel import SCHEME, Sentinels

# Nobody waits longer than about a second for a Redis that is away (CELERY.md: a frozen one blocks until it thaws).
COMMAND_TIMEOUT_S = 1.0
# A blocking read lasts shorter than this; past it the connection counts as half-open and is made anew.
BLOCKING_TIMEOUT_S = 5.0


def connect(url: str, *, timeout_s: float = COMMAND_TIMEOUT_S, max_connections: int = 256) -> Redis:
    """A thread-safe client with a pool of its own; nothing is opened before the first command. Answers are bytes."""
    # A Unix socket has neither a handshake that could hang nor a peer that could vanish; redis-py refuses both options there.
    over_tcp: dict[str, Any] = {"socket_connect_timeout": min(timeout_s, COMMAND_TIMEOUT_S), "socket_keepalive": True}
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        **({} if url.startswith("unix://") else over_tcp),
        "health_check_interval": 10,
        "max_connections": max_connections,
        # Once, at once: a pooled connection that the server closed meanwhile is no reason to fail a request.
        "retry": _CountingRetry(ConstantBackoff(0.0), retries=1, supported_errors=(RedisConnectionError,)),
    }
    if not url.startswith(SCHEME):
        return Redis.from_url(url, **options)
    said = Sentinels.of(url)
    # Asked before each new connection; a master that became a replica is noticed by its first refusal, and left.
    asked: Any = Sentinel(said.hosts, sentinel_kwargs=sentinel_options(said))  # type: ignore[no-untyped-call]
    found: Redis = asked.master_for(said.service, db=said.db, username=said.username, password=said.password, **options)
    return found


def sentinel_options(said: Sentinels) -> dict[str, Any]:
    """Of a connection to a Sentinel: one that is dead is passed over at once; redis-py would try it for seconds."""
    times = {"socket_timeout": COMMAND_TIMEOUT_S, "socket_connect_timeout": COMMAND_TIMEOUT_S}
    return {**times, **said.own, "retry": Retry(ConstantBackoff(0.0), retries=0)}


class _CountingRetry(Retry):
    """Every command and every connection goes through it, so here is known what failed in the end."""

    def call_with_retry(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().call_with_retry(*args, **kwargs)
        except (RedisConnectionError, RedisTimeoutError, OSError):
            metrics.REDIS_ERRORS.inc(1)
            raise
