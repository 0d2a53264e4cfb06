"""Terminal: lines from several threads and one status line below them that is written over."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from typing import TextIO

_CLEAR = "\r\x1b[K"


class Terminal:
    """Writes to standard error. A terminal that went away is not an error: what writes here has to go on."""

    def __init__(self, sink: TextIO | None = None) -> None:
        self._sink = sink or sys.stderr
        self._is_live = self._sink.isatty()
        self._lock = threading.Lock()
        self._status = ""

    def line(self, text: str) -> None:
        """A line of its own, above the status."""
        with self._lock:
            self._write(f"{_CLEAR}{text}\n{self._status}" if self._is_live and self._status else f"{text}\n")

    def status(self, text: str) -> None:
        """What is going on now; "" when nothing is. Where nothing can be written over, a line for each change."""
        with self._lock:
            if text == self._status:
                return
            self._status = text
            if self._is_live:
                self._write(f"{_CLEAR}{text}")
            elif text:
                self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._sink.write(text)
            self._sink.flush()
