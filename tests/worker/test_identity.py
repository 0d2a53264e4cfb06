"""Equal models are told as equal wherever they lie; another file, entry or device makes another model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from shared.models import ModelConfig, ModelSource, Parameters
from worker.identity import Identity


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


def config(**fields: Any) -> ModelConfig:
    return ModelConfig(**{"name": "m", "parameters": Parameters(model="model"), **fields})


def digest(folder: Path, device: str = "cpu", **fields: Any) -> str | None:
    return Identity(config(**fields), ModelSource(directory=folder), device).digest()


def test_a_copy_elsewhere_under_another_name_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    os.utime(copy / "model.safetensors", (1, 1))
    (copy / ".cache").mkdir()
    (copy / ".cache" / "lock").touch()
    assert digest(folder) is not None
    assert digest(copy, name="n", preload=False, threads=2) == digest(folder)
    assert digest(folder, "cuda:1") == digest(folder, "cuda:0")


@pytest.mark.parametrize(
    "fields",
    [{"normalize": True}, {"context_size": 16}, {"prompts": {"query": "q: "}}, {"pooling": "cls"}, {"dimensions": 8}],
    ids=lambda fields: next(iter(fields)),
)
def test_an_entry_that_changes_the_vectors_makes_another_model(fields: dict[str, Any], folder: Path) -> None:
    assert digest(folder, **fields) != digest(folder)


def test_weights_of_the_same_size_make_another_model(folder: Path) -> None:
    before = digest(folder)
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    assert digest(folder) not in (before, None)
    (folder / "model.safetensors").write_bytes(b"weights")
    assert digest(folder) == before
    (folder / "1_Pooling" / "config.json").rename(folder / "config.json")
    assert digest(folder) not in (before, None)


def test_another_device_makes_another_model(folder: Path) -> None:
    assert digest(folder, "cuda") != digest(folder, "cpu")


def test_a_folder_that_was_replaced_after_the_load_is_not_known(folder: Path) -> None:
    loaded = Identity(config(), ModelSource(directory=folder), "cpu")
    (folder / "new").write_bytes(b"others")
    (folder / "new").replace(folder / "model.safetensors")
    assert loaded.digest() is None
    assert loaded.digest() is None


def test_a_folder_that_changed_during_the_load_is_not_known(folder: Path) -> None:
    source = ModelSource(directory=folder)
    before = Identity(config(), source, "cpu")
    assert Identity(config(), source, "cpu", loaded_from=before.seen).digest() is not None
    (folder / "model.safetensors").write_bytes(b"longer weights")
    assert Identity(config(), source, "cpu", loaded_from=before.seen).digest() is None


def test_a_folder_that_is_gone_is_not_known(folder: Path) -> None:
    shutil.rmtree(folder)
    assert digest(folder) is None


def test_what_was_read_once_stays_known(folder: Path) -> None:
    loaded = Identity(config(), ModelSource(directory=folder), "cpu")
    known = loaded.digest()
    shutil.rmtree(folder)
    assert loaded.digest() == known


def test_a_model_without_files_is_its_spelling() -> None:
    one, same, other = (
        Identity(config(backend="fake", parameters=Parameters(model=model)), ModelSource(), "cpu").digest()
        for model in ("fake", "fake", "fake?dimensions=4")
    )
    assert one == same != other
