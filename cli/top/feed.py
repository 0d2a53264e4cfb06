"""Feed: the overview whenever it changes, from a thread; what breaks is taken up again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import click

from cli.client import ApiClient, Refused, TryAgain

PATH = "/v1/overview"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 4.0


class Feed:
    """Calls `on_wire` with each overview, and `on_lost` with a sentence while there is none; from its own thread."""

    def __init__(self, client: ApiClient, on_wire: Callable[[Mapping[str, Any]], None], on_lost: Callable[[str], None]) -> None:
        self._client = client
        self._on_wire = on_wire
        self._on_lost = on_lost
        self._stopping = threading.Event()
        # A daemon: nothing wakes a read of a stream that is silent.
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Say no more; the thread ends at its next word."""
        self._stopping.set()

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                for wire in self._client.events(f"{PATH}/events"):
                    if self._stopping.is_set():
                        return
                    pause_s = FIRST_PAUSE_S
                    self._on_wire(wire)
            except (Refused, TryAgain) as error:
                # All its streams may be taken, or a proxy lets none through: then it is asked.
                self._ask(error)
            except Exception as error:  # such as a client that was closed under it
                self._tell(f"{type(error).__name__}: {error}")
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _ask(self, why: click.ClickException) -> None:
        try:
            wire = self._client.call("GET", PATH)
        except click.ClickException:
            self._tell(why.message)
        else:
            if not self._stopping.is_set():
                self._on_wire(wire)

    def _tell(self, sentence: str) -> None:
        if not self._stopping.is_set():
            self._on_lost(sentence)
