"""The models while their files change: taken over whole, or the ones from before with what is wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.errors import ModelNotFound
from shared.live import LiveRegistry
from shared.models import ModelConfig, ModelRegistry, Parameters
from shared.settings import Settings
from tests.support.waiting import wait_until

GOOD = "- {name: a, backend: fake, parameters: {model: fake}}\n"
BETTER = GOOD + "- {name: b, backend: fake, parameters: {model: fake}}\n"
BROKEN = "- {name: a, backend: fake, parameters: {mod"

Watch = Callable[..., LiveRegistry]


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Live registries, stopped after the test."""
    opened: list[LiveRegistry] = []

    def open_one(**settings: Path) -> LiveRegistry:
        opened.append(LiveRegistry(Settings(**settings)))  # type: ignore[arg-type]
        return opened[-1]

    yield open_one
    for live in opened:
        live.stop()


def names(live: LiveRegistry) -> list[str]:
    return [model.name for model in live]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "configuration" / "models.yaml"
    file.parent.mkdir()
    file.write_text(GOOD)
    return file


def test_it_reads_like_the_registry_it_holds(file: Path, watch: Watch) -> None:
    live = watch(config_file=file)

    assert live.get("a") is live.get(None) is live.models["a"]
    assert live.directory == file.parent
    assert live.lines == {"a": (file, 1)}
    assert live.problems == ()
    with pytest.raises(ModelNotFound):
        live.get("b")


def test_a_good_edit_is_taken_over_whole_and_everybody_hears_of_it(file: Path, watch: Watch) -> None:
    live = watch(config_file=file)
    heard: list[ModelRegistry] = []
    live.subscribe(lambda registry: 1 / 0)  # type: ignore[arg-type,return-value]
    live.subscribe(heard.append)
    before = live.read_at

    assert not live.reload(), "nothing changed"
    file.write_text(BETTER)
    assert live.reload()
    assert names(live) == ["a", "b"]
    file.write_text(BETTER.replace(GOOD, ""))
    assert live.reload()

    assert names(live) == ["b"], "deleted models drop out"
    assert [[model.name for model in registry] for registry in heard] == [["a", "b"], ["b"]]
    assert live.read_at > before


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (BROKEN, "models.yaml is not YAML any longer"),
        ("- {name: a, backend: fake, paramters: {model: fake}}", "the entry of the model a is wrong"),
        ("- {name: a}\n- {name: b, backend: fake, parameters: {model: fake}}", "the entry of the model a is wrong"),
        ("", "no entry is left to serve"),
        ("[]", "no entry is left to serve"),
        ("- {name: a, backend: fake, disabled: true, parameters: {model: fake}}", "no entry is left to serve"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_broken_edit_keeps_what_was_there_and_says_so(file: Path, watch: Watch, edit: str | None, reason: str) -> None:
    live = watch(config_file=file)
    config = live.get("a")

    if edit is None:
        file.unlink()
    else:
        file.write_text(edit)
    assert not live.reload()

    assert live.get("a") is config
    assert names(live) == ["a"]
    assert str(live.problems[0]).startswith(f"{file}:1: {reason}")

    file.write_text(GOOD)  # mended, and just as it was
    live.reload()
    assert live.problems == ()


def test_an_entry_that_was_never_served_does_not_hold_up_the_others(file: Path, watch: Watch) -> None:
    live = watch(config_file=file)

    file.write_text(BETTER + "- {name: wrong}\n")

    assert live.reload()
    assert names(live) == ["a", "b"]
    assert [problem.model for problem in live.problems] == ["wrong"]


def test_a_file_that_never_was_yaml_does_not_hold_up_the_others_and_one_that_was_does(tmp_path: Path, watch: Watch) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    live = watch(models_path=tmp_path)

    (tmp_path / "draft.yaml").write_text(BROKEN)
    assert live.reload()
    (tmp_path / "b.yml").write_text("name: b\nbackend: fake\nparameters: {model: fake}")
    assert live.reload()
    assert names(live) == ["a", "b"]

    (tmp_path / "b.yml").write_text(BROKEN)
    assert not live.reload()
    assert names(live) == ["a", "b"]

    (tmp_path / "b.yml").unlink()
    assert live.reload()
    assert names(live) == ["a"]


def test_files_are_watched_and_an_atomic_rename_is_seen(file: Path, tmp_path: Path, watch: Watch) -> None:
    models = tmp_path / "models"
    models.mkdir()
    live = watch(config_file=file, models_path=models)
    heard = threading.Event()
    live.subscribe(lambda _: heard.set())
    live.start()

    written = file.with_name("models.yaml.tmp")
    written.write_text(BETTER)
    written.replace(file)
    assert heard.wait(15)
    assert names(live) == ["a", "b"]

    heard.clear()
    (models / "c.yaml").write_text("name: c\nbackend: fake\nparameters: {model: fake}")
    assert heard.wait(15)
    assert names(live) == ["a", "b", "c"]


def test_the_links_of_a_kubernetes_volume_are_followed(tmp_path: Path, watch: Watch) -> None:
    volume = tmp_path / "volume"
    for version, text in (("..1", GOOD), ("..2", BETTER), ("..3", GOOD)):
        (volume / version).mkdir(parents=True)
        (volume / version / "models.yaml").write_text(text)
    (volume / "..data").symlink_to("..1")
    (volume / "models.yaml").symlink_to("..data/models.yaml")
    live = watch(config_file=volume / "models.yaml")
    live.start()

    for version, expected in (("..2", ["a", "b"]), ("..3", ["a"])):
        (volume / "..new").symlink_to(version)
        (volume / "..new").replace(volume / "..data")
        wait_until(lambda expected=expected: names(live) == expected)


def test_a_link_to_a_file_elsewhere_is_watched_there(file: Path, tmp_path: Path, watch: Watch) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    live = watch(config_file=link)
    live.start()

    file.write_text(BETTER)

    wait_until(lambda: names(live) == ["a", "b"])


def test_a_registry_that_is_given_is_left_alone(file: Path) -> None:
    config = ModelConfig(name="given", backend="fake", parameters=Parameters(model="fake"))
    live = LiveRegistry(Settings(config_file=file), ModelRegistry({"given": config}))
    live.start()

    assert not live.reload()
    assert names(live) == ["given"]
    live.stop()
