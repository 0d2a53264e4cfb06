"""Lingering: a thread that has answered stays with its client for a moment, which most often asks again at once.

gthread hands each connection back to the main loop after a request and takes the next request from there: two threads wake
each other for it, which takes a sixth of the processor time of a small question.
"""

from __future__ import annotations

import select
import threading
from typing import Any

from web.patience import is_whole

# A client in a loop is back sooner.
LINGER_MS = 50
# Threads that linger at once. They are more than those that places are given out for, so nobody waits for one of them.
THREADS = 64


class Lingering:
    """The threads of one process that linger. Thread-safe."""

    def __init__(self, threads: int = THREADS) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self.lingering = 0

    def has_followed(self, conn: Any, most_bytes: int) -> bool:
        """Whether the connection's next request is here, whole; else the main loop waits for it, or for the rest of it."""
        unreader = conn.parser.unreader
        # What a client sends ahead of our answers has its turn after the others'.
        if unreader.buf.getvalue() or not self._begin():
            return False
        try:
            waiting = select.poll()
            waiting.register(conn.sock, select.POLLIN)
            if not waiting.poll(LINGER_MS):
                return False
            received = conn.sock.recv_now(most_bytes)
        except OSError:
            return False  # the main loop finds that too
        finally:
            self._end()
        unreader.unread(received)
        if not is_whole(received):
            return False
        conn.sock.begin()
        return True

    def _begin(self) -> bool:
        with self._lock:
            may = self.lingering < self._threads
            self.lingering += may
            return may

    def _end(self) -> None:
        with self._lock:
            self.lingering -= 1
