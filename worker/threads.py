"""Threads that the worker cannot do without: one that dies takes the process down, and its work goes to another worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from shared.logs import get_logger

logger = get_logger(__name__)

EXIT_CODE = 70  # sysexits' EX_SOFTWARE


def exit_process() -> None:
    """End it at once, without a word to anybody: what it held is taken over, since it does not release it."""
    os._exit(EXIT_CODE)


def essential_thread(target: Callable[[], None], name: str, on_death: Callable[[], None] | None = None) -> threading.Thread:
    """A thread, not started, whose uncaught exception ends the process: better than callers left to their timeouts."""

    def guarded() -> None:
        try:
            target()
        except BaseException:
            logger.critical("thread died", thread=name, exc_info=True)
            (on_death or exit_process)()

    return threading.Thread(target=guarded, name=name, daemon=True)
