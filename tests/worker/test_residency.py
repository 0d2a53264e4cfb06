"""Residency: models come in one after another, once, and never leave while they are used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from shared.errors import ModelNotReady
from shared.models import ModelConfig, ModelRegistry, ModelSource, Parameters
from worker.backends import Backend, LoadOptions
from worker.backends.fake import FakeBackend
from worker.residency import RETRY_AFTER_S, Residency

OPTIONS = LoadOptions(device="cpu", threads=1)
PATIENCE_S = 10.0


def fake(name: str, spelled: str = "fake", **entry: Any) -> ModelConfig:
    return ModelConfig(name=name, backend="fake", parameters=Parameters(model=spelled), **entry)


class Loads:
    """A loader whose loads end when the test says so, and a clock that it moves."""

    def __init__(self) -> None:
        self.began: SimpleQueue[str] = SimpleQueue()
        self.ended: SimpleQueue[str] = SimpleQueue()
        self.gate = threading.Event()
        self.gate.set()
        self.now = 1000.0

    def load(self, config: ModelConfig, source: ModelSource, options: LoadOptions) -> Backend:
        self.began.put(config.name)
        assert self.gate.wait(PATIENCE_S)
        return FakeBackend(config, source, options)


Make = Callable[..., Residency]


@pytest.fixture
def loads() -> Loads:
    return Loads()


@pytest.fixture
def make(loads: Loads) -> Iterator[Make]:
    made: list[Residency] = []

    def build(*models: ModelConfig, start: bool = True) -> Residency:
        residency = Residency(
            ModelRegistry({model.name: model for model in models}),
            lambda _: OPTIONS,
            on_change=loads.ended.put,
            on_death=lambda: loads.ended.put("died"),
            load=loads.load,
            clock=lambda: loads.now,
        )
        made.append(residency)
        if start:
            residency.start()
        return residency

    yield build
    loads.gate.set()
    for residency in made:
        residency.stop()


def state_of(residency: Residency, name: str = "m") -> str:
    return residency.presence({})[name].state


def test_models_are_preloaded_one_after_another(make: Make, loads: Loads) -> None:
    loads.gate.clear()
    residency = make(fake("a"), fake("b"), fake("later", preload=False))
    assert loads.began.get(timeout=PATIENCE_S) == "a"

    assert [state_of(residency, name) for name in ("a", "b", "later")] == ["loading", "loading", "available"]
    assert loads.began.empty()
    loads.gate.set()

    assert [loads.ended.get(timeout=PATIENCE_S) for _ in range(2)] == ["a", "b"]
    assert [state_of(residency, name) for name in ("a", "b", "later")] == ["ready", "ready", "available"]


def test_models_of_a_hub_are_preloaded_after_those_on_this_machine(make: Make, loads: Loads, tmp_path: Path) -> None:
    hub = ModelConfig(name="hub", parameters=Parameters(model="org/name"))
    local = ModelConfig(name="local", parameters=Parameters(model=str(tmp_path)))

    make(hub, local, fake("fake"))

    assert [loads.began.get(timeout=PATIENCE_S) for _ in range(3)] == ["local", "fake", "hub"]


def test_the_first_use_loads_and_the_others_wait_for_the_same_load(make: Make, loads: Loads) -> None:
    config = fake("m", preload=False)
    residency = make(config)

    loads.gate.clear()
    assert residency.acquire(config) is None
    assert residency.acquire(config) is None
    assert state_of(residency) == "loading"
    loads.gate.set()
    loads.ended.get(timeout=PATIENCE_S)

    assert residency.acquire(config) is not None
    assert loads.began.get(timeout=PATIENCE_S) == "m"
    assert loads.began.empty()


def test_a_failed_load_is_told_with_its_reason_and_tried_again_later(make: Make, loads: Loads) -> None:
    config = fake("m", "fake?fails_to_load=no such file")
    residency = make(config)
    loads.ended.get(timeout=PATIENCE_S)

    presence = residency.presence({})["m"]
    assert (presence.state, presence.reason) == ("failed", "OSError: no such file")
    with pytest.raises(ModelNotReady, match="no such file"):
        residency.acquire(config)

    loads.now += RETRY_AFTER_S
    assert state_of(residency) == "available"  # so that somebody asks
    assert residency.acquire(config) is None
    loads.ended.get(timeout=PATIENCE_S)
    with pytest.raises(ModelNotReady):
        residency.acquire(config)


def test_a_path_that_is_not_there_is_a_failed_load(make: Make, loads: Loads) -> None:
    config = ModelConfig(name="m", parameters=Parameters(model="/no/such/folder"))
    residency = make(config)
    loads.ended.get(timeout=PATIENCE_S)

    with pytest.raises(ModelNotReady, match="there is no model directory /no/such/folder"):
        residency.acquire(config)


def test_a_model_is_not_unloaded_while_somebody_uses_it(make: Make, loads: Loads) -> None:
    config = fake("m")
    residency = make(config)
    loads.ended.get(timeout=PATIENCE_S)
    backend = residency.acquire(config)
    assert isinstance(backend, FakeBackend)
    residency.hold("m")

    residency.release("m")
    assert not residency.unload("m")
    assert not backend.is_closed

    residency.release("m")
    assert residency.unload("m")
    assert backend.is_closed
    assert state_of(residency) == "available"
    assert not residency.unload("m")


def test_presence_says_what_a_ready_model_is(make: Make, loads: Loads) -> None:
    residency = make(fake("m", "fake?dimensions=16&max_tokens=99", prompts={"query": "q: "}))
    loads.ended.get(timeout=PATIENCE_S)

    presence = residency.presence({"m": 1234.0})["m"]

    assert (presence.dimensions, presence.max_tokens, presence.dtype) == (16, 99, "float32")
    assert (presence.tokens_per_s, presence.prompts) == (1234.0, ("query",))


def test_stop_closes_the_models(make: Make, loads: Loads) -> None:
    config = fake("m")
    residency = make(config)
    loads.ended.get(timeout=PATIENCE_S)
    backend = residency.acquire(config)

    residency.stop()

    assert isinstance(backend, FakeBackend)
    assert backend.is_closed


def test_a_loader_that_dies_is_told(make: Make, loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    class Death(BaseException):
        """No failed load."""

    def die(*_: Any) -> Backend:
        raise Death

    monkeypatch.setattr(loads, "load", die)
    make(fake("m"))

    assert loads.ended.get(timeout=PATIENCE_S) == "died"


def test_what_was_loaded_last_is_known_also_when_it_is_unloaded(make: Make, loads: Loads) -> None:
    residency = make(fake("m", preload=False))
    assert residency.identity("m") is None
    residency.acquire(fake("m"))
    loads.ended.get(timeout=PATIENCE_S)
    loaded = residency.identity("m")
    assert loaded is not None
    assert loaded.digest() is not None
    assert residency.unload("m")
    assert residency.identity("m") is loaded
    assert residency.identity("nobody") is None
