"""Residency: models come in one after another, once, and never leave while they are used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from shared.errors import ModelNotFound, ModelNotReady
from shared.models import ModelConfig, ModelRegistry, ModelSource, Parameters
from tests.support.waiting import wait_until
from worker.backends import Backend, LoadOptions
from worker.backends.fake import FakeBackend
from worker.eviction import Bounds
from worker.loader import EXPORTING, NO_ROOM_AGAIN_S, RETRY_AFTER_S
from worker.residency import Residency

pytestmark = pytest.mark.usefixtures("frozen")

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
        self.memory_bytes = 10_000  # of the whole process

    def load(self, config: ModelConfig, source: ModelSource, options: LoadOptions) -> Backend:
        self.began.put(config.name)
        assert self.gate.wait(PATIENCE_S)
        backend = FakeBackend(config, source, options)
        self.memory_bytes += int(config.description or 100)
        return backend

    def ends(self, count: int = 1) -> list[str]:
        """The next loads that end."""
        return [self.ended.get(timeout=PATIENCE_S) for _ in range(count)]


Make = Callable[..., Residency]


@pytest.fixture
def loads() -> Loads:
    return Loads()


@pytest.fixture
def make(loads: Loads) -> Iterator[Make]:
    made: list[Residency] = []

    def build(*models: ModelConfig, start: bool = True, **options: Any) -> Residency:
        residency = Residency(
            registry_of(*models),
            lambda _: OPTIONS,
            on_change=loads.ended.put,
            on_death=lambda: loads.ended.put("died"),
            load=loads.load,
            memory_in_use=lambda _: loads.memory_bytes,
            clock=lambda: loads.now,
            **options,
        )
        made.append(residency)
        if start:
            residency.start()
        return residency

    yield build
    loads.gate.set()
    for residency in made:
        residency.stop()


def registry_of(*models: ModelConfig) -> ModelRegistry:
    return ModelRegistry({model.name: model for model in models})


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


def loaded(residency: Residency) -> set[str]:
    return {name for name, presence in residency.presence({}).items() if presence.loaded_at is not None}


def use(residency: Residency, loads: Loads, config: ModelConfig) -> FakeBackend:
    """Ask for a model until it is there; the caller has to release it."""
    while (backend := residency.acquire(config)) is None:
        loads.ends()
    assert isinstance(backend, FakeBackend)
    return backend


def test_a_model_is_not_unloaded_while_somebody_uses_it(make: Make, loads: Loads) -> None:
    config = fake("m")
    residency = make(config)
    loads.ends()
    backend = use(residency, loads, config)
    residency.hold("m")

    assert residency.unload("m", deadline=loads.now) == "in use"
    residency.release("m")
    assert not backend.is_closed
    assert residency.acquire(config) is None  # it leaves: who asks now waits for the next load
    residency.release("m")
    loads.ends()

    assert backend.is_closed
    assert residency.claim("m") is not backend
    assert residency.unload("nobody", deadline=loads.now) == "not loaded"


def test_a_model_that_was_unloaded_comes_back_at_its_next_use(make: Make, loads: Loads) -> None:
    config = fake("m", "fake?dimensions=16")
    residency = make(config)
    loads.ends()
    backend = residency.acquire(config)
    residency.release("m")

    assert residency.unload("m", loads.now + PATIENCE_S) == "unloaded"
    presence = residency.presence({})["m"]
    assert (presence.state, presence.dimensions, presence.memory_bytes) == ("available", 16, None)
    assert presence.unloaded_at is not None
    assert residency.unload("m", loads.now) == "not loaded"

    assert use(residency, loads, config) is not backend


def test_the_least_recently_used_goes_for_the_next(make: Make, loads: Loads) -> None:
    a, b, c = (fake(name, preload=False) for name in "abc")
    residency = make(a, b, c, bounds=Bounds(max_models=2))
    for config in (a, b, a):
        use(residency, loads, config)
        loads.now += 1
        residency.release(config.name)

    use(residency, loads, c)

    assert loaded(residency) == {"a", "c"}


def test_one_in_use_goes_only_after_its_last_user_and_the_next_waits_for_it(make: Make, loads: Loads) -> None:
    a, b = fake("a", preload=False), fake("b", preload=False)
    residency = make(a, b, bounds=Bounds(max_models=1))
    backend = use(residency, loads, a)

    assert residency.acquire(b) is None
    wait_until(lambda: state_of(residency, "a") == "available")  # it was told to go
    assert not backend.is_closed
    assert loads.ended.empty()
    residency.release("a")

    assert loads.ends() == ["b"]
    assert backend.is_closed
    assert loaded(residency) == {"b"}


def test_two_models_in_turn_share_one_place_and_nobody_is_forgotten(make: Make, loads: Loads) -> None:
    a, b = fake("a", preload=False, ttl=0), fake("b", preload=False, ttl=0)
    residency = make(a, b, bounds=Bounds(max_models=1))

    for config in (a, b, a, b):
        use(residency, loads, config)
        assert loaded(residency) == {config.name}
        residency.release(config.name)


def test_beside_pinned_models_there_is_no_room_and_the_asker_is_told(make: Make, loads: Loads) -> None:
    pinned, other = fake("p", pinned=True), fake("m", preload=False)
    residency = make(pinned, other, bounds=Bounds(max_models=1))
    loads.ends()
    assert residency.acquire(other) is None
    loads.ends()

    with pytest.raises(ModelNotReady, match="no room beside 'p'"):
        residency.acquire(other)
    assert loaded(residency) == {"p"}
    assert state_of(residency, "m") == "available"  # another time, or another worker

    loads.now += NO_ROOM_AGAIN_S
    assert residency.acquire(other) is None
    loads.ends()


def test_preloading_drives_nobody_out(make: Make, loads: Loads) -> None:
    a, b = fake("a"), fake("b")
    residency = make(a, b, bounds=Bounds(max_models=1))
    loads.ends(2)

    assert loaded(residency) == {"a"}
    use(residency, loads, b)
    assert loaded(residency) == {"b"}


def test_a_budget_of_memory_is_kept_by_what_was_measured(make: Make, loads: Loads) -> None:
    a, b, c = (fake(name, description=size, preload=False) for name, size in (("a", "600"), ("b", "300"), ("c", "200")))
    residency = make(a, b, c, bounds=Bounds(max_memory_bytes=1000))
    for config in (a, b):
        use(residency, loads, config)
        residency.release(config.name)
        loads.now += 1
    assert residency.presence({})["a"].memory_bytes == 600

    use(residency, loads, c)

    assert loaded(residency) == {"b", "c"}


def test_a_model_over_the_whole_budget_is_refused_with_both_numbers(make: Make, loads: Loads) -> None:
    config = fake("m", description="2000", preload=False)
    residency = make(config, bounds=Bounds(max_memory_bytes=1000))
    assert residency.acquire(config) is None
    loads.ends()

    with pytest.raises(ModelNotReady, match=r"2000 bytes.*1000"):
        residency.acquire(config)
    assert loaded(residency) == set()


def test_what_nobody_used_for_its_ttl_goes_and_pinned_models_stay(make: Make, loads: Loads) -> None:
    models = [fake("own", ttl=10), fake("common"), fake("pinned", pinned=True, ttl=1), fake("used", ttl=1)]
    residency = make(*models, idle_s=100)
    loads.ends(4)
    residency.acquire(models[3])

    loads.now += 11
    residency.replace(registry_of(*models))  # whatever happens, it looks
    wait_until(lambda: loaded(residency) == {"common", "pinned", "used"})

    loads.now += 100
    residency.replace(registry_of(*models))  # whatever happens, it looks
    wait_until(lambda: loaded(residency) == {"pinned", "used"})


def test_a_new_registry_brings_models_and_takes_others_when_nobody_uses_them(make: Make, loads: Loads) -> None:
    stays, goes, comes = fake("stays"), fake("goes"), fake("comes")
    residency = make(stays, goes)
    loads.ends(2)
    kept, leaving = use(residency, loads, stays), use(residency, loads, goes)

    residency.replace(registry_of(stays, comes))

    assert loads.ends() == ["comes"]
    assert set(residency.presence({})) == {"stays", "comes"}
    assert not leaving.is_closed
    with pytest.raises(ModelNotFound):
        residency.acquire(goes)
    residency.release("goes")
    wait_until(lambda: leaving.is_closed)
    assert residency.acquire(stays) is kept


def test_a_changed_model_is_loaded_again_once_the_old_one_is_done(make: Make, loads: Loads) -> None:
    old, new = fake("m", "fake?dimensions=4"), fake("m", "fake?dimensions=6")
    residency = make(old)
    loads.ends()
    backend = use(residency, loads, old)

    residency.replace(registry_of(new))
    assert residency.acquire(new) is None
    assert not backend.is_closed
    residency.release("m")
    loads.ends()

    assert use(residency, loads, new).dimensions == 6
    assert backend.is_closed


def test_a_changed_model_that_is_in_use_holds_up_no_other(make: Make, loads: Loads) -> None:
    old, new = fake("m", "fake?dimensions=4"), fake("m", "fake?dimensions=6")
    residency = make(old)
    loads.ends()
    backend = use(residency, loads, old)

    residency.replace(registry_of(new, fake("other")))

    assert loads.ends() == ["other"]
    assert not backend.is_closed
    residency.release("m")
    assert loads.ends() == ["m"]
    assert residency.presence({})["m"].dimensions == 6


def test_a_change_during_the_export_is_exported_as_it_is_now(make: Make, loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    exports, gate = SimpleQueue[str](), threading.Event()

    def export(config: ModelConfig, source: ModelSource, options: LoadOptions) -> str | None:
        exports.put(config.parameters.model)
        assert gate.wait(PATIENCE_S)
        return None

    monkeypatch.setattr("worker.loader.needs_export", lambda *_: True)
    residency = make(fake("m", "fake?dimensions=4", dtype="int8"), export=export)
    assert exports.get(timeout=PATIENCE_S) == "fake?dimensions=4"
    residency.replace(registry_of(fake("m", "fake?dimensions=6", dtype="int8")))
    gate.set()

    assert exports.get(timeout=PATIENCE_S) == "fake?dimensions=6"
    loads.ends()
    assert residency.presence({})["m"].dimensions == 6
    assert loads.began.qsize() == 1


def test_a_change_during_the_load_is_loaded_after_it(make: Make, loads: Loads) -> None:
    loads.gate.clear()
    residency = make(fake("m", "fake?dimensions=4"))
    assert loads.began.get(timeout=PATIENCE_S) == "m"

    residency.replace(registry_of(fake("m", "fake?dimensions=6")))
    loads.gate.set()
    loads.ends(2)

    assert residency.presence({})["m"].dimensions == 6


def test_what_does_not_change_the_model_does_not_load_it_again(make: Make, loads: Loads) -> None:
    residency = make(fake("m"))
    loads.ends()
    backend = residency.acquire(fake("m"))
    residency.release("m")

    changed = fake("m", description="other words", ttl=5, pinned=True, truncate="error")
    residency.replace(registry_of(changed))

    assert residency.acquire(changed) is backend
    assert residency.unload("m", loads.now) == "in use"


def test_a_corrected_entry_is_tried_at_once(make: Make, loads: Loads) -> None:
    residency = make(fake("m", "fake?fails_to_load=no such file"))
    loads.ends()

    residency.replace(registry_of(fake("m")))
    loads.ends()

    assert state_of(residency) == "ready"


def test_load_waits_for_the_model_and_says_how_it_ended(make: Make, loads: Loads) -> None:
    residency = make(fake("m", preload=False), fake("bad", "fake?fails_to_load=no such file", preload=False))

    assert residency.load("m", loads.now + PATIENCE_S).state == "ready"
    found = residency.load("bad", loads.now + PATIENCE_S)
    assert (found.state, found.reason) == ("failed", "OSError: no such file")
    with pytest.raises(ModelNotFound):
        residency.load("nobody", loads.now)


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
    assert residency.unload("m", loads.now + PATIENCE_S) == "unloaded"
    assert residency.identity("m") is loaded
    assert residency.identity("nobody") is None


@pytest.mark.parametrize(("says", "large_from"), [({"dtype": "int8"}, 0), ({}, 1)])
def test_a_model_that_torch_does_not_stand_in_for_is_exported_first_and_holds_up_no_other(
    make: Make, loads: Loads, monkeypatch: pytest.MonkeyPatch, says: dict[str, Any], large_from: int
) -> None:
    monkeypatch.setattr("worker.backends.engines.STAND_IN_FROM_BYTES", large_from)
    exports, gate = SimpleQueue[str](), threading.Event()

    def export(config: ModelConfig, source: ModelSource, options: LoadOptions) -> str | None:
        exports.put(config.name)
        assert gate.wait(PATIENCE_S)
        return "the disk is full"

    monkeypatch.setattr("worker.loader.needs_export", lambda config, source, options: config.name == "new")
    residency = make(fake("new", **says), fake("known"), export=export)

    assert loads.ends() == ["known"]
    assert exports.get(timeout=PATIENCE_S) == "new"
    presence = residency.presence({})
    assert (presence["new"].state, presence["new"].reason, presence["known"].state) == ("loading", EXPORTING, "ready")
    gate.set()

    assert loads.ends() == ["new"]
    assert (state_of(residency, "new"), residency.presence({})["new"].reason) == ("ready", None)
    assert exports.empty()
