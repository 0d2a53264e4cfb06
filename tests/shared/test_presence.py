"""Workers that announce themselves, and those that no longer do."""

from __future__ import annotations

import time
from dataclasses import replace

import orjson
import pytest
from redis import Redis

from shared import keys, presence
from shared.connections import connect
from shared.presence import ModelPresence, PresenceBoard, WorkerPresence

WORKER = WorkerPresence(
    id="w1",
    host="here",
    pid=7,
    device="cpu",
    started_at=1.5,
    shards_at_once=3,
    models={
        "m": ModelPresence(state="ready", dimensions=384, max_tokens=256, dtype="float32", tokens_per_s=2e3, prompts=("query",)),
        "broken": ModelPresence(state="failed", reason="no such directory"),
    },
    waiting_tokens={"interactive": 5, "bulk": 7},
)


@pytest.mark.parametrize("protocol", [2, 3])
def test_what_a_worker_says_is_seen_by_everybody(redis_url: str, protocol: int) -> None:
    with connect(f"{redis_url}?protocol={protocol}") as redis:
        board = PresenceBoard(redis)
        board.announce(replace(WORKER, id="w2"))
        board.announce(WORKER)

        assert board.workers() == [WORKER, replace(WORKER, id="w2")]
        assert board.is_alive("w1")
        assert not board.is_alive("w3")


def test_only_models_it_can_serve_count(redis: Redis) -> None:
    board = PresenceBoard(redis)
    board.announce(WORKER)
    assert redis.zscore(keys.able("m"), "w1") is not None
    assert redis.zscore(keys.able("broken"), "w1") is None

    board.announce(replace(WORKER, models={"m": ModelPresence(state="failed")}))
    assert redis.zscore(keys.able("m"), "w1") is None


def test_a_draining_worker_is_alive_and_takes_nothing(redis: Redis) -> None:
    board = PresenceBoard(redis)
    board.announce(WORKER)
    board.announce(WORKER, draining=True)

    assert board.is_alive("w1")
    assert redis.zscore(keys.able("m"), "w1") is None


def test_presence_lapses(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "PRESENCE_S", 0.05)
    board = PresenceBoard(redis)
    board.announce(WORKER)

    deadline = time.monotonic() + 10
    while board.is_alive("w1"):
        assert time.monotonic() < deadline
    assert board.workers() == []


def test_a_clock_that_is_wrong_does_not_make_a_worker_dead(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (-1e6, 1e6):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: 1.7e9 + wrong)
        PresenceBoard(redis).announce(WORKER)

        seconds, _ = redis.time()  # type: ignore[misc]
        score = redis.zscore(keys.able("m"), "w1")
        assert 0 < float(score) - seconds <= presence.PRESENCE_S + 1  # type: ignore[arg-type]
        assert PresenceBoard(redis).workers() == [WORKER]


def test_a_worker_that_left_is_gone_at_once(redis: Redis) -> None:
    board = PresenceBoard(redis)
    board.announce(WORKER)
    board.leave(WORKER)

    assert board.workers() == []
    assert not board.is_alive("w1")
    assert redis.keys("*") == []


def test_what_a_newer_version_says_besides_is_passed_over() -> None:
    fields = orjson.loads(WORKER.to_json()) | {"colour": "blue"}
    fields["models"]["m"]["taste"] = "sweet"

    assert WorkerPresence.from_json(orjson.dumps(fields)) == WORKER


def test_a_worker_that_retires_learns_which_of_its_models_others_have_loaded(redis: Redis) -> None:
    board = PresenceBoard(redis)
    models = {name: ModelPresence(state="ready") for name in ("shared", "loading", "dead", "draining", "own")}
    board.announce(replace(WORKER, models=models))
    board.announce(
        replace(WORKER, id="w2", models={"shared": ModelPresence(state="ready"), "loading": ModelPresence(state="loading")})
    )
    board.announce(replace(WORKER, id="w3", models={"dead": ModelPresence(state="ready")}))
    redis.zadd(keys.able("dead"), {"w3": 1})  # its presence lapsed
    board.announce(replace(WORKER, id="w4", models={"draining": ModelPresence(state="ready")}), draining=True)

    assert board.retire("w1", models) == {"shared"}
    assert redis.zscore(keys.able("own"), "w1") is None
    assert board.is_alive("w1")
    assert board.retire("w2", ["shared"]) == set()
