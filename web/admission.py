"""Admission: how many requests of each kind are in progress at once, so that none of them waits for a thread.

gunicorn has a thread for every place that is given out here, and some to turn others away with. Whoever finds no place is told
at once when to come back: a question behind a hundred others in gunicorn's own queue would know nothing of its deadline, and
uploads that take all night would hold the threads that questions need.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from shared import metrics
from shared.errors import ServerBusy
from web import lingering

Kind = Literal["asks", "uploads", "downloads", "pages", "others"]

# What a request is by its endpoint, else by its blueprint, else one of the others, which are short.
# Event streams have places of their own (web/events.py, web/watching.py); probes need none.
KINDS: Mapping[str, Kind | None] = {
    "health": None,
    "jobs.get_events": None,
    "overview.get_events": None,
    "embeddings": "asks",
    "ollama": "asks",
    "rerank": "asks",
    "tei": "asks",
    "tokenize": "asks",
    "jobs.create": "uploads",
    "files.create": "uploads",
    "results": "downloads",
    "files.content": "downloads",
    "links": "downloads",
    "docs": "pages",
    "ui": "pages",
}

# Threads that refuse, answer probes, and do what comes before a place is asked for.
SPARE_THREADS = 8
# Files of pages, which need no key, and some of which are larger than what the kernel takes: a browser opens six connections.
PAGE_PLACES = 8
# An ask's place is free soon; a transfer's is when it is.
RETRY_AFTER_S: Mapping[Kind, float] = {"asks": 0.25, "uploads": 5.0, "downloads": 5.0, "pages": 1.0, "others": 1.0}

# An answer that the kernel takes at once, however slow its reader, needs no place any more.
SMALL_ANSWER_BYTES = 64 * 2**10

_PLACE = "web.place"


def transfers(web_threads: int) -> int:
    """Places for uploads, for downloads, for event streams of jobs, for those of the overview, and for the others, each."""
    return max(1, web_threads // 3)


def threads(web_threads: int) -> int:
    """Threads of a process that never keeps one waiting that has a place."""
    return web_threads + 5 * transfers(web_threads) + PAGE_PLACES + SPARE_THREADS + lingering.THREADS


def kind_of(endpoint: str | None, blueprint: str | None) -> Kind | None:
    """What a request is; None if it needs no place."""
    for name in (endpoint, blueprint):
        if name is not None and name in KINDS:
            return KINDS[name]
    return "others"


class Admission:
    """The places of one process."""

    def __init__(self, web_threads: int) -> None:
        few = transfers(web_threads)
        self._places: dict[Kind, int] = {
            "asks": web_threads,
            "uploads": few,
            "downloads": few,
            "pages": PAGE_PLACES,
            "others": few,
        }
        self._taken: dict[Kind, int] = dict.fromkeys(self._places, 0)
        self._lock = threading.Lock()

    def taken(self, kind: Kind) -> int:
        """Requests of the kind in progress."""
        return self._taken[kind]

    def enter(self, kind: Kind) -> None:
        """Take a place. Raises ServerBusy if there is none."""
        with self._lock:
            if self._taken[kind] < self._places[kind]:
                self._taken[kind] += 1
                metrics.IN_PROGRESS.inc(1, kind)
                return
        message = f"{self._places[kind]} {kind} are in progress, which is what this server does at once; try again"
        raise ServerBusy(message, retry_after_s=RETRY_AFTER_S[kind])

    def leave(self, kind: Kind) -> None:
        """Give the place back."""
        with self._lock:
            self._taken[kind] -= 1
            metrics.IN_PROGRESS.inc(-1, kind)

    def enter_for(self, environ: dict[str, Any], kind: Kind) -> None:
        """Take a place for a WSGI request, until its last byte left or its client did. Raises ServerBusy."""
        self.enter(kind)
        environ[_PLACE] = kind

    def leave_for(self, environ: dict[str, Any]) -> None:
        """Give the place back now, if there is one yet."""
        kind = environ.pop(_PLACE, None)
        if kind is not None:
            self.leave(kind)

    def wrap(self, app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        """The WSGI app, giving places back when a response was sent or given up."""

        def wrapped(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            try:
                return _Body(iter(app(environ, start_response)), lambda: self.leave_for(environ))
            except BaseException:
                self.leave_for(environ)
                raise

        return wrapped


class _Body:
    """A response's body; whoever sends it closes it, or takes all of it."""

    def __init__(self, pieces: Iterator[bytes], leave: Callable[[], None]) -> None:
        self._pieces = pieces
        self._leave = leave

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except BaseException:
            self._leave()
            raise

    def close(self) -> None:
        try:
            if hasattr(self._pieces, "close"):
                self._pieces.close()
        finally:
            self._leave()
