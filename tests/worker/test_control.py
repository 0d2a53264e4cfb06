"""Commands reach the worker's models, and web hears what came of them; both ends on a real Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from redis import Redis

from shared import keys
from shared.connections import connect
from shared.control import Command, ControlClient, ControlServer, Outcome, Verb
from shared.models import ModelConfig, ModelRegistry, Parameters
from shared.presence import PresenceBoard, WorkerPresence
from shared.settings import Settings
from worker.control import ControlLoop
from worker.engine import EmbedRequest, Engine

Order = Callable[..., list[Outcome]]


def fake(name: str, spelled: str = "fake", **entry: object) -> ModelConfig:
    return ModelConfig(name=name, backend="fake", parameters=Parameters(model=spelled), **entry)  # type: ignore[arg-type]


MODELS = [fake("lazy", preload=False), fake("bad", "fake?fails_to_load=no such file", preload=False)]


def alive(redis: Redis, worker_id: str) -> PresenceBoard:
    board = PresenceBoard(redis)
    board.announce(WorkerPresence(id=worker_id, host="h", pid=1, device="cpu", started_at=1.0, shards_at_once=1))
    return board


@pytest.fixture
def engine() -> Iterator[Engine]:
    registry = ModelRegistry({config.name: config for config in MODELS})
    engine = Engine(Settings(device="cpu", streams=1), registry, on_death=lambda: None)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def announced() -> list[str]:
    return []


@pytest.fixture
def order(redis: Redis, redis_url: str, engine: Engine, announced: list[str]) -> Iterator[Order]:
    """Send a command to a worker and hear what came of it."""
    with ExitStack() as stack:
        blocking = stack.enter_context(connect(redis_url, timeout_s=5.0))
        loop = ControlLoop(ControlServer(blocking, "w1"), engine, lambda: announced.append("now"))
        loop.start()
        stack.callback(loop.stop)
        client = ControlClient(redis, stack.enter_context(connect(redis_url, timeout_s=5.0)), alive(redis, "w1"))

        def send(verb: Verb, model: str, *workers: str, within_s: float = 10.0) -> list[Outcome]:
            return list(client.order(Command(verb=verb, model=model, within_s=within_s), workers or ("w1",)))

        yield send


def test_a_model_is_loaded_and_unloaded_by_command(order: Order, engine: Engine, announced: list[str]) -> None:
    assert order("load", "lazy") == [Outcome(worker="w1", state="ready")]
    assert engine.presence()["lazy"].state == "ready"
    assert order("load", "lazy") == [Outcome(worker="w1", state="ready")]

    assert order("unload", "lazy") == [Outcome(worker="w1", state="unloaded")]
    assert engine.presence()["lazy"].state == "available"
    assert order("unload", "lazy") == [Outcome(worker="w1", state="not loaded")]
    assert len(announced) == 4  # each before its outcome was told


def test_what_does_not_load_says_why(order: Order) -> None:
    assert order("load", "bad") == [Outcome(worker="w1", state="failed", reason="OSError: no such file")]
    [unknown] = order("load", "nobody")
    assert "not served here" in (unknown.reason or "")


def test_a_model_in_use_is_told_as_such_and_goes_afterwards(order: Order, engine: Engine, redis: Redis) -> None:
    slow = fake("lazy", preload=False)
    engine.replace_registry(ModelRegistry({"lazy": fake("lazy", "fake?seconds_per_token=0.2", preload=False)}))
    future = engine.submit(EmbedRequest(model=slow, lane="interactive", texts=("a b c",)))
    order("load", "lazy")

    assert order("unload", "lazy", within_s=0.0) == [Outcome(worker="w1", state="in use")]
    assert len(future.result(timeout=20).vectors) == 1
    assert order("unload", "lazy")[0].state in ("unloaded", "not loaded")


def test_a_worker_that_died_is_not_waited_for(order: Order, redis: Redis) -> None:
    assert order("load", "lazy", "w1", "dead", within_s=60.0) == [Outcome(worker="w1", state="ready")]
    assert redis.ttl(keys.control("dead")) > 0  # and what it was told is forgotten


def test_a_command_that_cannot_be_read_stops_nobody(order: Order, redis: Redis) -> None:
    redis.rpush(keys.control("w1"), b"[1]", b"{", b'{"verb": "load"}')
    assert order("load", "lazy") == [Outcome(worker="w1", state="ready")]
