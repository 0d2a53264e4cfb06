"""Events: a job told to its watchers whenever it changes, as server-sent events.

Redis says which job changed, to one thread of the process, which wakes the streams that wait. What Redis says may be lost,
and Redis may be away: a stream looks at the job by itself every few seconds then, and once a keep-alive in any case.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import orjson
from flask import Response
from redis.exceptions import RedisError

from shared.errors import NotFound, StorageAway, Unavailable
from shared.jobs.index import JobIndex
from shared.jobs.job import FINISHED, JobView
from shared.jobs.wire import job_object
from shared.logs import get_logger

logger = get_logger(__name__)

MEDIA_TYPE = "text/event-stream"
# Proxies give up on a connection without a byte after 30 s and more.
KEEP_ALIVE_S = 15.0
LOOK_EVERY_S = 3.0  # while Redis is away
# At most so many events a second for a person to watch; a look that takes long is taken more seldom.
PAUSE_S = 0.3
PAUSE_TO_LOOK = 10.0
# What a client waits before it connects again, such as after a restart of the server.
RETRY_MS = 2000
LISTEN_S = 1.0
# Change with the clock alone: no news.
_MOVING = ("texts_per_second", "eta_seconds")


class Watch:
    """A stream's wait for news of one job; it holds one of the places for streams until it is closed."""

    def __init__(self, events: JobEvents, job_id: str) -> None:
        self.job_id = job_id
        self._events = events
        self._news = threading.Event()
        # What changed between the look that found the job and this moment.
        self._news.set()

    @property
    def is_ending(self) -> bool:
        """Whether the server stops."""
        return self._events.is_ending

    def wait(self, timeout_s: float) -> None:
        """Until there is news, or the server stops; not longer than `timeout_s`, nor LOOK_EVERY_S while nobody brings news."""
        self._news.wait(timeout_s if self._events.is_listening else min(timeout_s, LOOK_EVERY_S))
        self._news.clear()

    def pause(self, seconds: float) -> None:
        """Let news collect."""
        self._events.ending.wait(seconds)

    def wake(self) -> None:
        """There is news."""
        self._news.set()

    def close(self) -> None:
        """Give the place back. A second call does nothing."""
        self._events.leave(self)


class JobEvents:
    """One per process: the thread that listens, and the places for streams, of which each holds a thread of the server."""

    def __init__(self, index: JobIndex, max_streams: int) -> None:
        self.is_listening = False
        self.ending = threading.Event()
        self._index = index
        self._max_streams = max_streams
        self._watches: set[Watch] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job events", daemon=True)

    @property
    def is_ending(self) -> bool:
        """Whether streams end."""
        return self.ending.is_set()

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def end_streams(self) -> None:
        """Every stream ends now; their clients connect again, to a server that goes on."""
        self.ending.set()
        self._wake(None)

    def stop(self) -> None:
        """End the streams and the thread."""
        self.end_streams()
        self._stopping.set()
        with suppress(RedisError):  # else it notices by itself
            self._index.wake_listeners()
        if self._thread.ident is not None:
            self._thread.join()

    def watch(self, job_id: str) -> Watch:
        """A place among the streams. Raises Unavailable if all are taken."""
        with self._lock:
            if len(self._watches) >= self._max_streams:
                raise Unavailable(
                    f"{self._max_streams} event streams are open, and no more are served; ask for the job itself",
                    retry_after_s=5,
                )
            watch = Watch(self, job_id)
            self._watches.add(watch)
            return watch

    def leave(self, watch: Watch) -> None:
        """The stream has ended."""
        with self._lock:
            self._watches.discard(watch)

    def _wake(self, job_id: str | None) -> None:
        with self._lock:
            woken = [watch for watch in self._watches if job_id is None or watch.job_id == job_id]
        for watch in woken:
            watch.wake()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except RedisError as error:
                logger.warning("not listening for changes of jobs, Redis is away", error=type(error).__name__)
            except Exception:
                logger.exception("listening for changes of jobs failed")
            self.is_listening = False
            self._wake(None)  # from now on each looks for itself
            self._stopping.wait(LISTEN_S)

    def _listen(self) -> None:
        with self._index.changes() as changes:
            while not self._stopping.is_set():
                message = changes.get_message(timeout=LISTEN_S)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    # Also after the client connected again by itself: what was published meanwhile nobody heard.
                    self.is_listening = True
                    self._wake(None)
                elif message["type"] == "message":
                    self._wake(message["data"].decode())


def answer(told: Iterator[bytes], leave: Callable[[], None]) -> Response:
    """The response that carries a stream of events; `leave` is called when it ends, however it does."""
    response = Response(told, content_type=MEDIA_TYPE)
    response.call_on_close(leave)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would collect events until a buffer is full
    return response


def stream(
    watch: Watch,
    view: JobView,
    look: Callable[[], JobView],
    expire_after_s: float,
    waits_for: Callable[[JobView], str | None] = lambda _: None,
) -> Iterator[bytes]:
    """The job as `view` has it, then as each `look` finds it changed, until it is finished, deleted, or the server stops."""
    yield b"retry: %d\n\n" % RETRY_MS
    seen: JobView | None = view
    told: dict[str, Any] | None = None
    told_at = looked_s = 0.0
    while not watch.is_ending:
        if seen is not None:
            wire = job_object(seen, time.time(), expire_after_s=expire_after_s, waits_for=waits_for(seen))
            lasting = {name: value for name, value in wire.items() if name not in _MOVING}
            is_finished = seen.status in FINISHED
            if is_finished or lasting != told:
                yield _event("done" if is_finished else "progress", wire)
                if is_finished:
                    return
                told, told_at = lasting, time.monotonic()
                watch.pause(max(PAUSE_S, PAUSE_TO_LOOK * looked_s))
        if time.monotonic() - told_at >= KEEP_ALIVE_S:
            yield b": keep-alive\n\n"
            told_at = time.monotonic()
        watch.wait(max(0.0, told_at + KEEP_ALIVE_S - time.monotonic()))
        if watch.is_ending:
            return
        began = time.monotonic()
        try:
            seen = look()
        except NotFound:
            yield _event("deleted", {"id": view.job.id, "object": "embedding.job", "deleted": True})
            return
        except (StorageAway, RedisError) as error:
            seen = None
            logger.warning("job not looked at", job=view.job.id, error=type(error).__name__)
            watch.pause(LOOK_EVERY_S)
            watch.wake()
        looked_s = time.monotonic() - began


def _event(name: str, wire: Mapping[str, object]) -> bytes:
    """The id says when; a client that sends it back gets the job as it is now, like any other."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (int(time.time() * 1000), name.encode(), orjson.dumps(wire))
