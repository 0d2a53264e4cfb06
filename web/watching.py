"""Watching: the overview told to everybody who looks, once a second, by one look a process however many they are.

Nobody looks, no thread runs. A stream holds a thread of the server, so their places are counted, as those of jobs are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from shared.errors import Unavailable
from shared.logs import get_logger
from web.events import KEEP_ALIVE_S, RETRY_MS
from web.overview import Overview, Snapshot

logger = get_logger(__name__)

EVERY_S = 1.0


class Watchers:
    """The streams of one process, and the thread that looks for them while there are any."""

    def __init__(self, look: Callable[[], Snapshot], max_streams: int) -> None:
        self._look = look
        self._max_streams = max_streams
        self._streams = 0
        self._changed = threading.Condition()
        self._snapshot: Snapshot | None = None
        self._number = 0  # of the snapshot
        self._is_looking = False
        self._is_ending = False

    def enter(self) -> None:
        """Take a place; `leave` gives it back. Raises Unavailable if all are taken."""
        with self._changed:
            if self._streams >= self._max_streams:
                raise Unavailable(
                    f"{self._max_streams} pages are watching, and no more are served; ask for the overview itself",
                    retry_after_s=5,
                )
            self._streams += 1
            if not self._is_looking and not self._is_ending:
                self._is_looking = True
                threading.Thread(target=self._run, name="overview", daemon=True).start()

    def leave(self) -> None:
        """The stream has ended."""
        with self._changed:
            self._streams -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """End the streams; their clients connect again, to a server that goes on."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()

    def stream(self, say: Callable[[Snapshot], Overview]) -> Iterator[bytes]:
        """Each snapshot that tells news, until the server stops."""
        yield b"retry: %d\n\n" % RETRY_MS
        seen, told, told_at = 0, None, time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda seen=seen: self._is_ending or self._number > seen, KEEP_ALIVE_S)  # type: ignore[misc]
                if self._is_ending:
                    return
                seen, snapshot = self._number, self._snapshot
            overview = None if snapshot is None else say(snapshot)
            lasting = None if overview is None else _lasting(overview)
            if overview is not None and lasting != told:
                yield b"event: overview\ndata: %s\n\n" % orjson.dumps(overview)
                told, told_at = lasting, time.monotonic()
            elif time.monotonic() - told_at >= KEEP_ALIVE_S:
                yield b": keep-alive\n\n"
                told_at = time.monotonic()

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                snapshot: Snapshot | None = self._look()
            except Exception:  # whatever it is, those who look keep what they saw, and the next look may succeed
                logger.exception("overview not made")
                snapshot = None
            with self._changed:
                if snapshot is not None:
                    self._snapshot, self._number = snapshot, self._number + 1
                    self._changed.notify_all()
                # A look that takes long is taken more seldom.
                spent = time.monotonic() - began
                self._changed.wait_for(lambda: self._is_ending or not self._streams, max(EVERY_S - spent, spent))
                if self._is_ending or not self._streams:
                    # What one saw who is gone is old for the next.
                    self._is_looking, self._snapshot = False, None
                    return


def _lasting(overview: Overview) -> dict[str, Any]:
    """Without what changes with the clock alone."""
    lasting: dict[str, Any] = {key: value for key, value in overview.items() if key != "at"}
    lasting["workers"] = [
        {key: value for key, value in worker.items() if key != "heard_seconds_ago"} for worker in overview["workers"]
    ]
    return lasting
