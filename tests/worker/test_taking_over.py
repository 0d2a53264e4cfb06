"""Torch serves a model while its export is made, and the export takes over: nobody waits, and nobody gets an old answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from shared.models import ModelConfig, ModelRegistry, ModelSource, Parameters
from tests.support.waiting import wait_until
from worker.backends import Backend, LoadOptions
from worker.backends.fake import FakeBackend
from worker.backends.stand_in import StandIn
from worker.residency import Residency

pytestmark = pytest.mark.usefixtures("frozen")

OPTIONS = LoadOptions(device="cpu", threads=1)
PATIENCE_S = 10.0


def entry(name: str = "m", **says: Any) -> ModelConfig:
    return ModelConfig(name=name, backend="fake", parameters=Parameters(model="fake"), **says)


class Loaded(FakeBackend):
    """Tells when it is closed."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


class World:
    """Exports that end when the test says so; which were made is known, as it is on disk."""

    def __init__(self) -> None:
        self.exporting: SimpleQueue[str] = SimpleQueue()
        self.gates: dict[str, threading.Event] = {}
        self.failed: str | None = None
        self.made: set[str] = set()
        self.engines = iter(("torch", "onnx"))
        self.asked_to_take_over: SimpleQueue[str | None] = SimpleQueue()
        self.loaded: list[Loaded] = []
        self.ended: SimpleQueue[str] = SimpleQueue()

    def needs_export(self, config: ModelConfig, *_: object) -> bool:
        return config.name not in self.made

    def export(self, config: ModelConfig, *_: object) -> str | None:
        self.exporting.put(config.name)
        assert self.gates.setdefault(config.name, threading.Event()).wait(PATIENCE_S)
        if self.failed is None:
            self.made.add(config.name)
        return self.failed

    def takes_over(self, config: ModelConfig, source: ModelSource, options: LoadOptions) -> bool:
        self.asked_to_take_over.put(options.export_failed)
        return config.name in self.made

    def load(self, config: ModelConfig, source: ModelSource, options: LoadOptions) -> Backend:
        backend = Loaded(config, source, options)
        self.loaded.append(backend)
        backend.engine = next(self.engines, "onnx")
        return StandIn(backend) if options.is_exporting else backend


Make = Callable[..., Residency]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr("worker.backends.engines.STAND_IN_FROM_BYTES", 0)
    monkeypatch.setattr("worker.loader.needs_export", world.needs_export)
    monkeypatch.setattr("worker.taking_over.takes_over", world.takes_over)
    return world


@pytest.fixture
def make(world: World) -> Iterator[Make]:
    made: list[Residency] = []

    def build(*models: ModelConfig) -> Residency:
        residency = Residency(
            registry_of(*models),
            lambda _: OPTIONS,
            on_change=world.ended.put,
            on_death=lambda: world.ended.put("died"),
            load=world.load,
            export=world.export,
        )
        residency.start()
        made.append(residency)
        return residency

    yield build
    for gate in world.gates.values():
        gate.set()
    for residency in made:
        residency.stop()


def registry_of(*models: ModelConfig) -> ModelRegistry:
    return ModelRegistry({model.name: model for model in models})


def let_end(world: World, name: str = "m") -> None:
    world.gates.setdefault(name, threading.Event()).set()


def test_torch_serves_until_the_export_takes_over_and_the_model_is_ready_all_the_time(make: Make, world: World) -> None:
    residency = make(entry())
    assert world.ended.get(timeout=PATIENCE_S) == "m"
    backend, before = residency.acquire(entry()), residency.identity("m")
    assert backend is not None
    assert not world.made
    assert residency.presence({})["m"].engine == "torch"

    let_end(world)
    wait_until(lambda: residency.identity("m") is not before)

    torch, onnx = world.loaded
    assert torch.is_closed
    assert not onnx.is_closed
    assert (residency.presence({})["m"].state, residency.presence({})["m"].engine) == ("ready", "onnx")
    # Who had it before goes on with it.
    assert backend.embed(backend.tokenize(["a"])).shape == (1, onnx.dimensions)
    assert residency.acquire(entry()) is backend
    assert world.ended.empty()


@pytest.mark.parametrize("failed", ["the disk is full", None])
def test_without_an_export_torch_stays_and_nothing_is_loaded_again(failed: str | None, make: Make, world: World) -> None:
    """`None`: it was refused."""
    residency = make(entry())
    world.ended.get(timeout=PATIENCE_S)
    before, world.failed = residency.identity("m"), failed
    if failed is None:
        world.made = Never()

    let_end(world)
    assert world.asked_to_take_over.get(timeout=PATIENCE_S) == failed

    assert len(world.loaded) == 1
    assert not world.loaded[0].is_closed
    assert residency.identity("m") is before


class Never(set[str]):
    """Nothing is ever in it."""

    def add(self, _: str) -> None:
        pass


def test_a_model_that_was_unloaded_meanwhile_is_left_alone_and_its_next_load_is_the_export(make: Make, world: World) -> None:
    residency = make(entry(), entry("other"))
    assert sorted(world.ended.get(timeout=PATIENCE_S) for _ in range(2)) == ["m", "other"]
    assert residency.unload("m", time.monotonic() + PATIENCE_S) == "unloaded"

    let_end(world)
    let_end(world, "other")
    world.asked_to_take_over.get(timeout=PATIENCE_S)  # `other`: what came before it was looked at too
    wait_until(lambda: len(world.loaded) == 3)
    residency.acquire(entry())
    assert world.ended.get(timeout=PATIENCE_S) == "m"

    assert world.asked_to_take_over.empty()
    assert isinstance(residency.acquire(entry()), Loaded)


def test_a_model_that_changed_meanwhile_keeps_what_it_was_changed_to(make: Make, world: World) -> None:
    residency = make(entry())
    world.ended.get(timeout=PATIENCE_S)
    assert world.exporting.get(timeout=PATIENCE_S) == "m"
    residency.replace(registry_of(entry(context_size=9)))
    assert world.ended.get(timeout=PATIENCE_S) == "m"
    assert world.exporting.get(timeout=PATIENCE_S) == "m"

    let_end(world)

    assert world.asked_to_take_over.get(timeout=PATIENCE_S) is None
    wait_until(lambda: [backend.is_closed for backend in world.loaded] == [True, True, False])
    assert world.asked_to_take_over.empty()


def test_a_long_export_does_not_hold_up_the_next_ones(make: Make, world: World) -> None:
    residency = make(entry("large"), entry("small"))
    assert {world.exporting.get(timeout=PATIENCE_S) for _ in range(2)} == {"large", "small"}

    let_end(world, "small")

    wait_until(lambda: type(residency.acquire(entry("small"))) is StandIn and "small" in world.made)
    assert "large" not in world.made


def test_calls_that_are_under_way_end_before_the_one_that_runs_them_is_closed() -> None:
    gate, began = threading.Event(), threading.Event()

    class Slow(Loaded):
        def embed(self, rows: Any) -> Any:
            began.set()
            assert gate.wait(PATIENCE_S)
            assert not self.is_closed
            return super().embed(rows)

    first, second = (kind(entry(), ModelSource(), OPTIONS) for kind in (Slow, Loaded))
    stand_in = StandIn(first)
    rows, found = stand_in.tokenize(["a"]), []
    call = threading.Thread(target=lambda: found.append(stand_in.embed(rows)))
    call.start()
    assert began.wait(PATIENCE_S)
    relief = threading.Thread(target=stand_in.relieve, args=(second,))
    relief.start()
    wait_until(lambda: stand_in._backend is second)

    assert len(stand_in.embed(rows)) == 1  # the successor's, already
    assert not first.is_closed
    gate.set()
    call.join(PATIENCE_S)
    relief.join(PATIENCE_S)

    assert first.is_closed
    assert found[0].shape == (1, first.dimensions)


def test_another_model_does_not_take_over_and_neither_does_anybody_from_a_closed_one() -> None:
    def made(spelled: str) -> Loaded:
        return Loaded(ModelConfig(name="m", backend="fake", parameters=Parameters(model=spelled)), ModelSource(), OPTIONS)

    stand_in = StandIn(made("fake"))

    assert not stand_in.relieve(made("fake?dimensions=6"))
    stand_in.close()
    assert not stand_in.relieve(made("fake"))
