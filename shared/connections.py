"""Connections to Redis: opened in one way everywhere, so that a dead or frozen server never holds a caller for long."""

from __future__ import annotations

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
    return Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(timeout_s, COMMAND_TIMEOUT_S),
        socket_keepalive=True,
        health_check_interval=10,
        max_connections=max_connections,
        # Once, at once: a pooled connection that the server closed meanwhile is no reason to fail a request.
        retry=Retry(ConstantBackoff(0.0), retries=1, supported_errors=(RedisConnectionError,)),
    )
