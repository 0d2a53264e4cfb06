"""Watching takes what the server tells, and asks where it tells nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli import watch as watch_module
from tests.cli.test_jobs import BUSY, JOBS, job
from tests.support.api import FakeApi, Reply
from tests.support.commands import Run

EVENTS = f"{JOBS}/job_1/events"
STREAM = {"Content-Type": "text/event-stream; charset=utf-8"}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module.time, "sleep", lambda _seconds: None)


def told(*jobs: dict[str, Any], name: str = "progress") -> bytes:
    events = [f"id: 1\nevent: {name}\ndata: {json.dumps(each)}\n\n" for each in jobs]
    return ("retry: 2000\n\n: keep-alive\n\n" + "".join(events)).encode()


def asked(api: FakeApi, path: str) -> int:
    return sum(each.path == path for each in api.asked)


def test_a_job_is_followed_by_what_the_server_tells(ask: Run, api: FakeApi) -> None:
    api.on("GET", f"{JOBS}/job_1", Reply(job("queued", 0)))
    api.on("GET", EVENTS, Reply(told(job("in_progress", 5), job()), headers=STREAM))
    result = ask("jobs", "watch", "job_1")
    assert result.exit_code == 0
    assert "job_1 in_progress 5/10" in result.stderr
    assert (asked(api, f"{JOBS}/job_1"), asked(api, EVENTS)) == (1, 1)


@pytest.mark.parametrize(
    "reply",
    [BUSY, Reply({"error": {"message": "no such route", "param": None}}, 404), Reply(b"<html>"), Reply(b"", headers=STREAM)],
)
def test_where_no_changes_are_told_the_job_is_asked_for(ask: Run, api: FakeApi, reply: Reply) -> None:
    api.on("GET", f"{JOBS}/job_1", Reply(job("queued", 0)), Reply(job("in_progress", 5)), Reply(job()))
    api.on("GET", EVENTS, reply)
    result = ask("jobs", "watch", "job_1")
    assert result.exit_code == 0
    assert "job_1 in_progress 5/10" in result.stderr


def test_a_stream_that_breaks_is_taken_up_again(ask: Run, api: FakeApi) -> None:
    half = told(job("in_progress", 5), job())
    api.on("GET", f"{JOBS}/job_1", Reply(job("queued", 0)))
    api.on("GET", EVENTS, Reply(half, headers=STREAM, cut_at=len(half) - 40), Reply(told(job()), headers=STREAM))
    result = ask("jobs", "watch", "job_1")
    assert result.exit_code == 0
    assert asked(api, EVENTS) == 2


def test_a_job_deleted_while_it_is_watched_ends_the_watching(ask: Run, api: FakeApi) -> None:
    gone = Reply({"error": {"message": "no such job", "param": None}}, 404)
    api.on("GET", f"{JOBS}/job_1", Reply(job("queued", 0)), gone)
    api.on("GET", EVENTS, Reply(told({"id": "job_1", "deleted": True}, name="deleted"), headers=STREAM))
    result = ask("jobs", "watch", "job_1")
    assert result.exit_code == 1
    assert "no such job" in result.stderr
