"""A job's watchers hear of its changes as they come, also while Redis is away, and hold up nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient

from shared.errors import StorageAway, Unavailable
from shared.jobs.index import JobIndex
from shared.jobs.job import JobView
from shared.records import ShardCounts
from tests.support.valkey import Valkey
from tests.support.waiting import wait_until
from tests.web.conftest import MakeApp
from tests.web.support import embed, error_of, finish, run_shard
from web import events as module
from web.events import JobEvents, stream
from web.parts import EXTENSION, Parts

JOBS = "/v1/embeddings/jobs"


@pytest.fixture(autouse=True)
def listening(parts: Parts) -> None:
    wait_until(lambda: parts.events.is_listening)


class Told:
    """A stream that is read by a thread of its own."""

    def __init__(self, response: Any) -> None:
        self.blocks: list[bytes] = []
        self.is_over = False
        self._response = response
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        for block in self._response.response:
            self.blocks.append(block)
        self.is_over = True

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for block in b"".join(self.blocks).decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "event" in fields:
                assert fields["id"].isdigit()
                found.append((fields["event"], orjson.loads(fields["data"])))
        return found


@contextmanager
def watching(client: FlaskClient, job_id: str, **options: Any) -> Iterator[Told]:
    response = client.get(f"{JOBS}/{job_id}/events", **options)
    assert response.status_code == 200, response.data
    assert response.mimetype == "text/event-stream"
    told = Told(response)
    try:
        yield told
    finally:
        client.application.extensions[EXTENSION].events.end_streams()
        told.thread.join(10)
        response.close()
        assert not told.thread.is_alive()


def submitted(client: FlaskClient, texts: int = 2) -> str:
    response = embed(client, {"input": ["text"] * texts}, JOBS)
    assert response.status_code == 202, response.data
    job_id: str = response.json["id"]
    return job_id


def test_a_stream_tells_the_job_at_once_then_its_changes_then_its_end(client: FlaskClient, parts: Parts) -> None:
    job_id = submitted(client)
    with watching(client, job_id) as told:
        wait_until(lambda: told.events)
        assert told.events == [("progress", client.get(f"{JOBS}/{job_id}").json)]
        parts.jobs.pause(parts.jobs.view(job_id))
        wait_until(lambda: len(told.events) == 2)
        parts.jobs.resume(parts.jobs.view(job_id))
        wait_until(lambda: len(told.events) == 3)
        run_shard(parts.jobs, job_id, 0)
        wait_until(lambda: told.events[-1][1]["counts"]["completed"] == 2)
        finish(parts.jobs, job_id)
        wait_until(lambda: told.is_over)
        assert [name for name, _ in told.events][-1] == "done"
        assert {name for name, _ in told.events[:-1]} == {"progress"}
        assert (told.events[1][1]["status"], told.events[-1][1]["status"]) == ("paused", "completed")
        assert told.blocks[0].startswith(b"retry: ")


def test_a_finished_job_is_told_and_that_is_all(client: FlaskClient, parts: Parts) -> None:
    job_id = submitted(client)
    finish(parts.jobs, job_id)
    response = client.get(f"{JOBS}/{job_id}/events", headers={"Last-Event-ID": "nonsense\x7f"})
    assert response.data.count(b"event: ") == 1
    assert b"event: done\n" in response.data


def test_a_deleted_job_ends_its_streams(client: FlaskClient) -> None:
    job_id = submitted(client)
    with watching(client, job_id) as told:
        wait_until(lambda: told.events)
        assert client.delete(f"{JOBS}/{job_id}").status_code == 200
        wait_until(lambda: told.is_over)
        assert told.events[-1] == ("deleted", {"id": job_id, "object": "embedding.job", "deleted": True})


def test_many_changes_at_once_become_few_events(client: FlaskClient, parts: Parts) -> None:
    job_id = submitted(client)
    with watching(client, job_id) as told:
        wait_until(lambda: told.events)
        for _ in range(50):
            parts.jobs.resume(parts.jobs.pause(parts.jobs.view(job_id)))
        parts.jobs.pause(parts.jobs.view(job_id))
        wait_until(lambda: told.events[-1][1]["status"] == "paused")
        assert len(told.events) < 20


def test_nothing_is_looked_at_while_nothing_changes(client: FlaskClient, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    job_id, other = submitted(client), submitted(client)
    looks: list[str] = []
    view = parts.jobs.view

    def counted(job_id: str, owner: str | None = None) -> JobView:
        looks.append(job_id)
        return view(job_id, owner)

    with watching(client, job_id) as told:
        wait_until(lambda: told.events)
        monkeypatch.setattr(parts.jobs, "view", counted)
        parts.jobs.index.committed(other, 0, run_shard_counts())  # somebody else's news
        time.sleep(0.5)
        assert len(looks) <= 1  # the one right after the first event


def run_shard_counts() -> Any:
    return ShardCounts(rows=1, failed=0, truncated=0, tokens=1, started_at=1.0, finished_at=2.0)


def test_a_silent_stream_is_kept_alive(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.05)
    with watching(client, submitted(client)) as told:
        wait_until(lambda: told.blocks.count(b": keep-alive\n\n") >= 3)
        assert len(told.events) == 1


def test_more_streams_than_a_third_of_the_threads_are_sent_away_and_a_closed_one_makes_room(make_app: MakeApp) -> None:
    app = make_app(web_threads=6)
    client = app.test_client()
    job_id = submitted(client)
    open_ones = [client.get(f"{JOBS}/{job_id}/events") for _ in range(2)]
    refused = client.get(f"{JOBS}/{job_id}/events")
    assert refused.status_code == 503
    assert error_of(refused)["code"] == "unavailable"
    assert int(refused.headers["Retry-After"]) >= 1
    open_ones[0].close()  # before it was read at all
    again = client.get(f"{JOBS}/{job_id}/events")
    assert again.status_code == 200
    for response in (open_ones[1], again):
        response.close()


def test_an_unknown_job_or_anothers_has_no_stream(make_app: MakeApp) -> None:
    client = make_app(api_keys="one,two").test_client()
    mine, theirs = {"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}
    job_id = embed(client, {"input": ["a"]}, JOBS, headers=mine).json["id"]
    assert client.get(f"{JOBS}/{job_id}/events", headers=theirs).status_code == 404
    assert client.get(f"{JOBS}/job_{'0' * 36}/events", headers=mine).status_code == 404
    assert client.get(f"{JOBS}/{job_id}/events").status_code == 401


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    (tmp_path / "valkey").mkdir()
    server = Valkey(tmp_path / "valkey")
    server.start()
    yield server
    server.kill()


def test_a_stream_goes_on_without_redis_and_with_one_that_came_back_empty(
    make_app: MakeApp, own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(module, "KEEP_ALIVE_S", 600.0)  # which would look too
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    app: Flask = make_app(redis_url=own_valkey.url)
    client, parts = app.test_client(), app.extensions[EXTENSION]
    job_id = submitted(client)
    wait_until(lambda: parts.events.is_listening)
    with watching(client, job_id) as told:
        wait_until(lambda: told.events)
        time.sleep(0.3)  # now it waits for news that nobody will bring
        own_valkey.kill()
        wait_until(lambda: not parts.events.is_listening)
        parts.jobs.pause(parts.jobs.from_storage(job_id))
        wait_until(lambda: told.events[-1][1]["status"] == "paused", 20)
        own_valkey.start()
        wait_until(lambda: parts.events.is_listening, 20)
        monkeypatch.setattr(module, "LOOK_EVERY_S", 60.0)
        parts.jobs.resume(parts.jobs.view(job_id))
        wait_until(lambda: told.events[-1][1]["status"] == "queued", 20)
        finish(parts.jobs, job_id)
        wait_until(lambda: told.is_over, 20)
        assert told.events[-1][0] == "done"


def test_a_storage_that_is_away_for_a_while_does_not_end_a_stream(
    client: FlaskClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.02)
    view = parts.jobs.view(submitted(client))
    outcomes: list[Any] = [StorageAway("full"), StorageAway("full"), parts.jobs.cancel(view)]

    def look() -> JobView:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[no-any-return]

    watch = parts.events.watch(view.job.id)
    blocks = list(stream(watch, view, look, 0))
    watch.close()
    assert b"event: done" in blocks[-1]
    assert outcomes == []


def test_streams_end_when_the_server_stops(client: FlaskClient, parts: Parts) -> None:
    with watching(client, submitted(client)) as told:
        wait_until(lambda: told.events)
        parts.events.end_streams()
        wait_until(lambda: told.is_over, 5)
        assert [name for name, _ in told.events] == ["progress"]


def test_a_place_is_given_back_once(parts: Parts) -> None:
    events = JobEvents(JobIndex(parts.redis), 1)
    first = events.watch("job_1")
    with pytest.raises(Unavailable):
        events.watch("job_1")
    first.close()
    first.close()
    second = events.watch("job_1")
    with pytest.raises(Unavailable):
        events.watch("job_1")
    second.close()
