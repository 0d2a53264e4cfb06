"""`umekomi top`: one snapshot, the live view in a pseudo-terminal, and a connection that is lost."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from cli.client import ApiClient
from cli.top import feed as feed_module
from cli.top.feed import Feed
from cli.top.overview import Overview, read_overview
from cli.top.pace import Pace
from cli.top.screen import SPARKS, sparkline
from tests.support.api import FakeApi, Reply
from tests.support.commands import Run

PATH, EVENTS, JOBS = "/v1/overview", "/v1/overview/events", "/v1/embeddings/jobs"
STREAM = {"Content-Type": "text/event-stream; charset=utf-8"}


def overview(done: int = 1, at: float = 1000.0) -> dict[str, Any]:
    return {
        "object": "overview", "scope": "all", "at": at, "version": "0.1.0", "redis": "ok", "a_new_field": 1,
        "models": [{"name": "e5[bold]", "kind": "embed", "state": "failed", "reason": "no such directory", "device": "cuda:0"}],
        "workers": [{"id": "w", "host": "box", "pid": 7, "device": "cuda:0", "memory_bytes": 2**30, "models": ["e5"],
                     "waiting_tokens": {"bulk": 1234}, "shards_at_once": 3,
                     "shards": [{"job": "job_1", "shard": 1, "seconds": 1.0}]}],
        "lanes": {"interactive": [{"model": "e5", "asks": 5, "oldest_seconds": 2.0, "answered": 60, "p50_seconds": 0.0071}],
                  "bulk": [{"model": "e5", "jobs": 1, "shards_waiting": 8}], "waiting_tokens": {"bulk": 1234}},
        "throughput": {"step_seconds": 1.0, "at": [1.0, 2.0], "texts_per_second": {"bulk": [0.0, 50.0]},
                       "tokens_per_second": {"bulk": [0.0, 999.0]}},
        "jobs": [{"id": "job_1", "kind": "job", "model": "e5", "status": "in_progress", "priority": "normal", "rows": 1000,
                  "shards": 10, "shards_done": done, "is_yours": True}],
        "unfinished_jobs": 1, "problems": [],
    }  # fmt: skip


def event(wire: dict[str, Any]) -> bytes:
    return f"event: overview\ndata: {json.dumps(wire)}\n\n".encode()


def test_once_prints_everything_without_a_terminal(ask: Run, api: FakeApi) -> None:
    api.on("GET", PATH, Reply(overview()))
    result = ask("top", "--once")
    assert result.exit_code == 0
    for words in ("e5[bold]", "failed: no such directory", "box:7", "1,234", "7.1", "job_1", "10 %", "999"):
        assert words in result.stdout
    assert "\x1b" not in result.stdout


def test_json_is_the_server_s_own(ask: Run, api: FakeApi) -> None:
    api.on("GET", PATH, Reply(overview()))
    assert json.loads(ask("top", "--once", "--json").stdout) == overview()


@pytest.mark.parametrize(("reply", "words"), [(Reply({}, 404), "no /v1/overview"), (Reply({"at": "x"}), "overview is not as")])
def test_a_server_without_an_overview_is_refused_in_a_sentence(ask: Run, api: FakeApi, reply: Reply, words: str) -> None:
    api.on("GET", PATH, reply)
    result = ask("top", "--once")
    assert result.exit_code == 1
    assert words in result.stderr


def test_the_rate_and_the_time_left_of_a_job_come_from_how_far_it_was() -> None:
    def at(seconds: float, done: int) -> Overview:
        return read_overview(overview(done, seconds))

    pace = Pace()
    pace.tell(at(0.0, 1))
    assert pace.texts_per_second(at(0.0, 1).jobs[0]) is None
    pace.tell(at(10.0, 3))
    assert pace.texts_per_second(at(10.0, 3).jobs[0]) == pytest.approx(20.0)
    assert pace.eta_s(at(10.0, 3).jobs[0]) == pytest.approx(35.0)
    pace.tell(at(200.0, 3))  # nothing lately
    pace.tell(at(300.0, 3))
    assert pace.texts_per_second(at(300.0, 3).jobs[0]) is None


def test_a_sparkline_shows_the_latest_values() -> None:
    assert sparkline([9.0, 0.0, 1.0, 2.0], 3) == SPARKS[0] + SPARKS[4] + SPARKS[-1]
    assert sparkline([0.0], 5) == SPARKS[0]
    assert sparkline([], 5) == ""


@pytest.fixture
def fed(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[str, Any]]]:
    """A feed that runs; gives what it says next."""
    monkeypatch.setattr(feed_module, "FIRST_PAUSE_S", 0.01)
    said: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    client = ApiClient(api.url, None)
    feed = Feed(client, lambda wire: said.put(("wire", wire)), lambda why: said.put(("lost", why)))
    started = threading.Event()

    def following() -> tuple[str, Any]:
        if not started.is_set():
            started.set()
            feed.start()
        return said.get(timeout=10)

    yield following
    feed.stop()
    client.close()
    feed._thread.join()


def test_a_stream_that_ends_and_a_server_that_is_away_are_taken_up_again(
    api: FakeApi, fed: Callable[[], tuple[str, Any]]
) -> None:
    away = Reply({"error": {"message": "away for a moment"}}, 503)
    api.on(
        "GET",
        EVENTS,
        Reply(event(overview(1)) + event(overview(2)), headers=STREAM),
        away,
        Reply(event(overview(3)), headers=STREAM),
    )
    api.on("GET", PATH, away)
    heard = [fed() for _ in range(4)]
    assert [what for what, _ in heard] == ["wire", "wire", "lost", "wire"]
    assert "away for a moment" in heard[2][1]


def test_where_no_stream_is_to_be_had_the_overview_is_asked_for(api: FakeApi, fed: Callable[[], tuple[str, Any]]) -> None:
    api.on("GET", EVENTS, Reply({"error": {"message": "all streams are taken"}}, 429))
    api.on("GET", PATH, Reply(overview(4)))
    assert [fed()[0], fed()[0]] == ["wire", "wire"]


def test_in_a_terminal_keys_select_a_job_cancel_it_and_quit(api: FakeApi) -> None:
    cancelled = threading.Event()

    def cancel(_asked: object) -> Reply:
        cancelled.set()
        counts = {"total": 1000, "completed": 100, "failed": 0}
        return Reply({"id": "job_1", "status": "cancelled", "model": "e5", "counts": counts, "created_at": 1.0})

    api.on("GET", PATH, Reply(overview()))
    api.on("GET", EVENTS, Reply(event(overview()), headers=STREAM))
    api.on("POST", f"{JOBS}/job_1/cancel", cancel)
    outside, inside = pty.openpty()
    try:
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 70, 0, 0))
        before = termios.tcgetattr(inside)
        command = [sys.executable, "-m", "cli.main", "top", "--url", api.url]
        environment = os.environ | {"TERM": "xterm-256color", "NO_COLOR": "1"}
        process = subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, env=environment)
        try:
            seen = _until(outside, b"q quit")
            os.write(outside, b"jc")
            seen += _until(outside, b"y does it")
            assert not cancelled.is_set()
            os.write(outside, b"y")
            seen += _until(outside, b"job_1 is cancelled")
            os.write(outside, b"q")
            threading.Thread(target=_drain, args=(outside,), daemon=True).start()
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()
        assert cancelled.is_set()
        assert termios.tcgetattr(inside) == before
        assert b"Traceback" not in seen
    finally:
        os.close(inside)
        os.close(outside)


def _until(descriptor: int, words: bytes) -> bytes:
    seen = b""
    while words not in seen:
        seen += os.read(descriptor, 65_536)
    return seen


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 65_536):
            pass
    except OSError:
        pass
