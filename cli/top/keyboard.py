"""Keyboard: keys as they are pressed, by name, from a thread; the terminal is as it was afterwards."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_EVERY_S = 0.2
_ARROWS = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down"}


def key_names(raw: bytes) -> list[str]:
    """What one read gave: `up`, `down`, or a character each; other escape sequences are nothing."""
    names: list[str] = []
    while raw:
        if raw[:3] in _ARROWS:
            names.append(_ARROWS[raw[:3]])
            raw = raw[3:]
        elif raw[:1] == b"\x1b":
            break
        else:
            names.append(raw[:1].decode("latin-1"))
            raw = raw[1:]
    return names


@contextmanager
def keys(on_key: Callable[[str], None]) -> Iterator[None]:
    """While the block runs; nothing happens if standard input is no terminal."""
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    stopping = threading.Event()

    def read() -> None:
        while not stopping.is_set():
            if select.select([descriptor], [], [], LOOK_EVERY_S)[0]:
                raw = os.read(descriptor, 64)
                if not raw:
                    return
                for name in key_names(raw):
                    on_key(name)

    thread = threading.Thread(target=read, name="keyboard", daemon=True)
    tty.setcbreak(descriptor)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
