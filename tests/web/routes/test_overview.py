"""GET /v1/overview and its events: one look for all who watch, and each sees what their key may."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient
from redis import Redis

from shared import keys
from shared.access import KeyFile, Limits
from shared.history import History, Step
from shared.presence import PresenceBoard, ShardPresence, WorkerPresence
from tests.web.conftest import MakeApp
from tests.web.support import AnsweringWorker, embed, error_of, presence, worker
from web.parts import Parts


def submit(client: FlaskClient, texts: int = 3, **headers: str) -> str:
    body = {"model": "m", "input": ["a text"] * texts}
    response = client.post("/v1/embeddings/jobs", json=body, headers=headers)
    assert response.status_code == 202
    return str(response.get_json()["id"])


def overview(client: FlaskClient, **headers: str) -> dict[str, Any]:
    response = client.get("/v1/overview", headers=headers)
    assert response.status_code == 200
    return dict(response.get_json())


def events_of(response: Any, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for piece in response.iter_encoded():
        if b"event: overview" in piece:
            found.append(orjson.loads(piece.partition(b"data: ")[2]))
        if len(found) == count:
            break
    return found


def test_it_tells_of_models_workers_and_what_they_run(client: FlaskClient, redis: Redis) -> None:
    here = worker(
        {"m": presence(tokens_per_s=100.0, memory_bytes=7, engine="onnx"), "strict": presence("failed", reason="no file")}
    )
    shards = (ShardPresence(job="job_a", shard=3, model="m", began_at=time.time() - 2),)
    fields = {name: getattr(here, name) for name in WorkerPresence.__dataclass_fields__}
    PresenceBoard(redis).announce(WorkerPresence(**fields | {"shards": shards, "waiting_tokens": {"bulk": 9}}))

    told = overview(client)

    models = {model["name"]: model for model in told["models"]}
    assert (models["m"]["state"], models["m"]["tokens_per_second"], models["m"]["dimensions"]) == ("ready", 100.0, 8)
    assert (models["strict"]["state"], models["strict"]["reason"]) == ("failed", "no file")
    assert (models["m"]["engine"], models["strict"]["engine"]) == ("onnx", None)
    (one,) = told["workers"]
    assert one["heard_seconds_ago"] < 4
    assert (one["shards"][0]["job"], one["shards"][0]["shard"]) == ("job_a", 3)
    assert one["shards"][0]["seconds"] >= 2
    assert told["lanes"]["waiting_tokens"] == {"bulk": 9}


def test_it_tells_how_long_questions_took(client: FlaskClient, answering: AnsweringWorker, parts: Parts) -> None:
    for _ in range(4):
        assert embed(client, {"model": "m", "input": "a"}).status_code == 200
    parts.latencies.publish()
    lane = next(lane for lane in overview(client)["lanes"]["interactive"] if lane["model"] == "m")
    assert (lane["answered"], lane["failed"], lane["asks"]) == (4, 0, 0)
    assert 0 < lane["p50_seconds"] <= lane["p99_seconds"] < 5


def test_it_tells_what_waits_in_both_lanes(client: FlaskClient) -> None:
    job = submit(client)
    told = overview(client)
    assert [(each["id"], each["status"], each["rows"], each["is_yours"]) for each in told["jobs"]] == [(job, "queued", 3, True)]
    (bulk,) = told["lanes"]["bulk"]
    assert (bulk["jobs"], bulk["paused"], bulk["shards_waiting"]) == (1, 0, 1)

    client.post(f"/v1/embeddings/jobs/{job}/pause")
    (bulk,) = overview(client)["lanes"]["bulk"]
    assert (bulk["jobs"], bulk["paused"], bulk["oldest_seconds"]) == (0, 1, None)
    client.post(f"/v1/embeddings/jobs/{job}/cancel")
    assert overview(client)["jobs"] == []


def test_throughput_is_what_all_workers_did_in_each_step(client: FlaskClient, redis: Redis) -> None:
    history = History(redis)
    history.add(Step(at=10.0, seconds=5.0, texts={"bulk": 50}, tokens={"bulk": 500, "interactive": 10}))
    history.add(Step(at=15.0, seconds=4.0, texts={}, tokens={}))
    told = overview(client)["throughput"]
    assert told["at"] == [10.0, 15.0]
    assert told["texts_per_second"] == {"interactive": [0.0, 0.0], "bulk": [10.0, 0.0]}
    assert told["tokens_per_second"]["interactive"] == [2.0, 0.0]


def test_without_redis_it_says_so(make_app: MakeApp) -> None:
    told = overview(make_app(redis_url="redis://127.0.0.1:1/0").test_client())
    assert told["redis"] == "away"
    assert {model["state"] for model in told["models"]} == {"unknown"}


def test_a_key_that_may_embed_sees_the_models_and_its_own_jobs_alone(make_app: MakeApp, tmp_path: Any, redis: Redis) -> None:
    _, embedding = KeyFile(tmp_path / "data" / "keys.json").create("alice", "embed", Limits())
    client = make_app(api_keys="boss").test_client()
    alice, boss = {"Authorization": f"Bearer {embedding}"}, {"Authorization": "Bearer boss"}
    PresenceBoard(redis).announce(worker({"m": presence()}))
    hers, his = submit(client, **alice), submit(client, **boss)

    told = overview(client, **alice)
    assert (told["scope"], [job["id"] for job in told["jobs"]], told["unfinished_jobs"]) == ("own", [hers], 1)
    assert told["workers"] == told["lanes"]["interactive"] == told["problems"] == []
    assert {model["name"] for model in told["models"]} == {"m", "strict"}
    assert his not in str(told)

    told = overview(client, **boss)
    assert told["scope"] == "all"
    assert {job["id"]: job["is_yours"] for job in told["jobs"]} == {hers: False, his: True}
    assert len(told["workers"]) == 1


def test_all_who_watch_are_told_by_one_look_and_nobody_looks_when_they_are_gone(client: FlaskClient, parts: Parts) -> None:
    looks = []
    look = parts.watchers._look
    parts.watchers._look = lambda: looks.append(1) or look()  # type: ignore[func-returns-value]
    first, second = client.get("/v1/overview/events"), client.get("/v1/overview/events")
    assert first.mimetype == "text/event-stream"
    (told,) = events_of(first, 1)
    events_of(second, 1)
    assert told["object"] == "overview"
    assert len(looks) == 1

    submit(client)
    (after,) = events_of(first, 1)
    assert len(after["jobs"]) == 1
    for response in (first, second):
        response.close()
    with parts.watchers._changed:
        assert parts.watchers._changed.wait_for(lambda: not parts.watchers._is_looking or parts.watchers._streams == 0, 5)


def test_places_for_watching_are_counted_and_given_back(make_app: MakeApp) -> None:
    client = make_app(web_threads=1).test_client()
    first = client.get("/v1/overview/events")
    refused = client.get("/v1/overview/events")
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    assert "are watching" in error_of(refused)["message"]
    first.close()
    client.get("/v1/overview/events").close()


def test_streams_end_when_the_server_stops(client: FlaskClient, parts: Parts) -> None:
    response = client.get("/v1/overview/events")
    events_of(response, 1)
    parts.watchers.stop()
    assert b"event" not in b"".join(response.iter_encoded())


@pytest.mark.parametrize("path", ["/v1/overview", "/v1/overview/events"])
def test_a_wrong_key_sees_nothing(make_app: MakeApp, path: str) -> None:
    client = make_app(api_keys="boss").test_client()
    assert error_of(client.get(path, headers={"Authorization": "Bearer wrong"}))["code"] == "invalid_api_key"


def test_a_shard_map_says_what_waits_and_what_is_done(client: FlaskClient, parts: Parts) -> None:
    job = submit(client)
    told = client.get(f"/v1/embeddings/jobs/{job}/shards").get_json()
    assert (told["total"], told["runs"]) == (1, "w1")
    parts.jobs.index.sent("m", [(job, 0)], time.time() + 60, {})
    assert client.get(f"/v1/embeddings/jobs/{job}/shards").get_json()["runs"] == "s1"
    parts.jobs.index.lease(job, "m", 0, "w1", 60)
    assert client.get(f"/v1/embeddings/jobs/{job}/shards").get_json()["runs"] == "r1"
    assert client.get("/v1/embeddings/jobs/job_" + "0" * 36 + "/shards").status_code == 404


def test_a_question_that_waits_is_counted_with_its_age(client: FlaskClient, redis: Redis) -> None:
    PresenceBoard(redis).announce(worker({"m": presence()}))
    stream = keys.asks("m", "long")
    redis.xadd(stream, {"ask": "x"}, id=f"{int(redis.time()[0]) * 1000 - 5000}-0")
    redis.set(keys.asks_bytes("m", "long"), 70)
    redis.xadd(keys.asks("m"), {"ask": "y"})
    lane = next(lane for lane in overview(client)["lanes"]["interactive"] if lane["model"] == "m")
    assert (lane["asks"], lane["bytes"]) == (2, 70)
    assert 4.0 <= lane["oldest_seconds"] < 30
