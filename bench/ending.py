"""Ends a bench that is told to stop together with everything that it started."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn


def end_on_signals() -> None:
    """From now on SIGINT, SIGTERM and SIGHUP raise SystemExit, so that every `with` stops its processes; called once, first."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> NoReturn:
    # An impatient second Ctrl-C would leave processes behind.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    print(f"{signal.Signals(number).name}: stopping what was started", file=sys.stderr, flush=True)
    sys.exit(128 + number)
