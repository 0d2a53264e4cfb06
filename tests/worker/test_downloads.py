from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shared.errors import ModelNotReady
from shared.hub import Hub, Progress
from shared.models import ModelConfig, ModelRegistry, ModelSource, Parameters
from shared.presence import ModelPresence
from tests.support.hub import FakeHub, model_files
from tests.support.waiting import wait_until
from worker.backends import LoadOptions
from worker.backends.fake import FakeBackend
from worker.downloads import Downloads, Pace, code_repositories, fetch_model
from worker.residency import Residency

pytestmark = pytest.mark.usefixtures("frozen")

CONFIG = ModelConfig(name="m", parameters=Parameters(model="org/m"))
FAKE = ModelConfig(name="local", backend="fake", parameters=Parameters(model="fake"))


class Loads:
    """What a residency loaded, and where the files were."""

    def __init__(self) -> None:
        self.sources: dict[str, ModelSource] = {}
        self.changes: list[str] = []

    def __call__(self, config: ModelConfig, source: ModelSource, options: LoadOptions) -> Any:
        self.sources[config.name] = source
        return FakeBackend(FAKE, source, options)


@pytest.fixture
def residency(hub: Hub) -> Iterator[Callable[..., tuple[Residency, Loads]]]:
    made: list[Residency] = []

    def make(*models: ModelConfig) -> tuple[Residency, Loads]:
        loads = Loads()
        found = Residency(
            ModelRegistry({model.name: model for model in models}),
            lambda _: LoadOptions(device="cpu", threads=1),
            on_change=loads.changes.append,
            on_death=lambda: None,
            load=loads,
            downloads=Downloads(hub),
        )
        made.append(found)
        found.start()
        return found, loads

    yield make
    for each in made:
        each.stop()


def presence(residency: Residency, name: str = "m") -> ModelPresence:
    return residency.presence({})[name]


def test_a_model_of_the_hub_is_loaded_from_its_folder_once_it_is_here(
    server: FakeHub, hub: Hub, residency: Callable[..., tuple[Residency, Loads]]
) -> None:
    server.add("org/m", model_files())

    found, loads = residency(CONFIG)

    wait_until(lambda: presence(found).state == "ready")
    folder = loads.sources["m"].directory
    assert folder is not None
    assert (folder / "model.safetensors").is_file()
    assert loads.sources["m"].hub_id is None


def test_while_it_comes_its_presence_tells_how_far_and_other_models_load(
    server: FakeHub, residency: Callable[..., tuple[Residency, Loads]]
) -> None:
    repository = server.add("org/m", model_files(), gate=threading.Event())

    found, _ = residency(CONFIG, FAKE)

    wait_until(lambda: presence(found).state == "downloading" and presence(found, "local").state == "ready")
    download = presence(found).download
    assert download is not None
    assert 0 <= download.done_bytes < download.total_bytes
    assert presence(found).reason == str(download)
    assert "of 0.3 MB" in str(download)
    assert found.acquire(CONFIG) is None
    assert repository.gate is not None
    repository.gate.set()
    wait_until(lambda: presence(found).state == "ready")
    assert presence(found).download is None


def test_a_download_that_fails_is_the_models_failure(server: FakeHub, residency: Callable[..., tuple[Residency, Loads]]) -> None:
    server.add("org/m", model_files(), token="secret")

    found, _ = residency(CONFIG)

    wait_until(lambda: presence(found).state == "failed")
    with pytest.raises(ModelNotReady, match=r"could not be loaded: org/m is gated"):
        found.acquire(CONFIG)


def test_a_model_that_is_removed_is_fetched_no_further(
    server: FakeHub, residency: Callable[..., tuple[Residency, Loads]]
) -> None:
    repository = server.add("org/m", model_files(b"w" * 2_000_000), gate=threading.Event())
    found, loads = residency(CONFIG)
    wait_until(lambda: presence(found).state == "downloading")

    found.replace(ModelRegistry({}))
    assert repository.gate is not None
    repository.gate.set()

    wait_until(lambda: not found._places.all)
    assert loads.sources == {}


def test_who_cannot_wait_for_so_long_is_told_at_once(server: FakeHub, residency: Callable[..., tuple[Residency, Loads]]) -> None:
    server.add("org/m", model_files(), gate=threading.Event())
    found, _ = residency(CONFIG)
    wait_until(lambda: presence(found).state == "downloading")
    from dataclasses import replace

    place = found._places.all["m"]
    assert place.download is not None
    place.download = replace(place.download, eta_s=60.0)

    found.check_in_time("m", None)
    found.check_in_time("m", 2e9 * 10)
    with pytest.raises(ModelNotReady, match=r"'m' is being downloaded: .*about 60 s left") as late:
        found.check_in_time("m", 1.0)
    assert late.value.retry_after_s == 60.0


def test_the_pace_is_told_about_once_a_second_with_the_time_left() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])

    def at(seconds: float, done: int) -> Any:
        now[0] = seconds
        return pace.add(Progress(done_bytes=done, total_bytes=1000, total_files=2))

    first, soon, later = at(0, 100), at(0.5, 200), at(2, 300)

    assert first is not None
    assert first.eta_s is None
    assert soon is None
    assert later.eta_s == 7.0  # 100 bytes a second
    assert at(9, 1000) is None


def test_code_that_another_repository_lends_is_fetched_only_where_it_is_trusted(server: FakeHub, hub: Hub) -> None:
    says = json.dumps({"auto_map": {"AutoModel": "org/code--modeling.Model", "AutoConfig": "own.Config"}}).encode()
    server.add("org/m", model_files() | {"config.json": says})
    server.add("org/code", {"modeling.py": b"pass", "config.json": b"{}", "model.safetensors": b"no"})

    folder = fetch_model(hub, CONFIG, "org/m")
    assert code_repositories(folder) == ["org/code"]
    assert not any("org/code" in request.path for request in server.asked)

    fetch_model(hub, CONFIG.model_copy(update={"trust_remote_code": True}), "org/m")
    assert {request.path.rpartition("/")[2] for request in server.asked if "org/code/" in request.path} == {
        "modeling.py",
        "config.json",
    }


def test_an_entry_that_changed_on_the_way_is_fetched_as_it_is_now_and_no_other_waits_for_it(
    server: FakeHub, hub: Hub, residency: Callable[..., tuple[Residency, Loads]]
) -> None:
    old = server.add("org/m", model_files(), gate=threading.Event())
    new = server.add("org/other", model_files(b"other"), gate=threading.Event())
    found, loads = residency(CONFIG)
    wait_until(lambda: presence(found).state == "downloading")

    changed = CONFIG.model_copy(update={"parameters": Parameters(model="org/other")})
    found.replace(ModelRegistry({"m": changed, "local": FAKE}))
    assert old.gate is not None
    assert new.gate is not None
    old.gate.set()

    wait_until(lambda: presence(found, "local").state == "ready")
    assert "m" not in loads.sources
    new.gate.set()
    wait_until(lambda: presence(found).state == "ready")
    folder = loads.sources["m"].directory
    assert folder is not None
    assert (folder / "model.safetensors").read_bytes() == b"other"


def test_an_entry_that_went_and_came_back_on_the_way_is_fetched(
    server: FakeHub, residency: Callable[..., tuple[Residency, Loads]]
) -> None:
    repository = server.add("org/m", model_files(b"w" * 2_000_000), gate=threading.Event())
    found, _ = residency(CONFIG)
    wait_until(lambda: presence(found).state == "downloading")

    found.replace(ModelRegistry({}))
    found.replace(ModelRegistry({"m": CONFIG}))
    assert repository.gate is not None
    repository.gate.set()

    wait_until(lambda: presence(found).state == "ready")
