"""A line to Redis: one connection that its user keeps, for the few commands that every question waits for.

redis-py's client takes a connection out of its pool around each command, measures, wraps and converts: as much processor time
again as the command itself. Here are the same connection, the same time-outs and the same one retry, and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

Command = Sequence[Any]


class Line:
    """Opened at its first command. Thread-safe; a blocking command holds it, so whoever blocks has one of its own."""

    def __init__(self, redis: Redis) -> None:
        self._pool: Any = redis.connection_pool
        self._connection: Any = None
        self._lock = threading.Lock()

    def call(self, *command: Any) -> Any:
        """The answer as it came: bytes, integers, lists and dicts of them. Raises RedisError."""
        (answer,) = self.call_each([command])
        if isinstance(answer, RedisError):
            raise answer
        return answer

    def call_each(self, commands: Sequence[Command]) -> list[Any]:
        """The answers of all, sent in one round trip; a ResponseError stands in its place. Raises RedisError if Redis is away."""
        with self._lock:
            if self._connection is None:
                self._connection = self._pool.get_connection()
            connection = self._connection
            packed = connection.pack_command(*commands[0]) if len(commands) == 1 else connection.pack_commands(commands)

            def run() -> list[Any]:
                connection.send_packed_command(packed)
                return [_read(connection) for _ in commands]

            try:
                answers: list[Any] = connection.retry.call_with_retry(run, lambda _: connection.disconnect())
            except BaseException:
                connection.disconnect()  # an answer that is still to come is nobody's
                raise
            return answers


def _read(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error
