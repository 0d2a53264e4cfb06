"""Connections to Redis: opened in one way everywhere, so that a dead or frozen server never holds a caller for long."""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

# Nobody waits longer than about a second for a Redis that is away (CELERY.md: a frozen one blocks until it thaws).
COMMAND_TIMEOUT_S = 1.0
# A blocking read lasts shorter than this; past it the connection counts as half-open and is made anew.
BLOCKING_TIMEOUT_S = 5.0


def connect(url: str, *, timeout_s: float = COMMAND_TIMEOUT_S, max_connections: int = 256) -> Redis:
    """A thread-safe client with a pool of its own; nothing is opened before the first command. Answers are bytes."""
    # A Unix socket has neither a handshake that could hang nor a peer that could vanish; redis-py refuses both options there.
    over_tcp: dict[str, Any] = {"socket_connect_timeout": min(timeout_s, COMMAND_TIMEOUT_S), "socket_keepalive": True}
    return Redis.from_url(
        url,
        socket_timeout=timeout_s,
        **({} if url.startswith("unix://") else over_tcp),
        health_check_interval=10,
        max_connections=max_connections,
        # Once, at once: a pooled connection that the server closed meanwhile is no reason to fail a request.
        retry=Retry(ConstantBackoff(0.0), retries=1, supported_errors=(RedisConnectionError,)),
    )
