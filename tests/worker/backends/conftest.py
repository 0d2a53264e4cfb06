"""Small models in real layouts, each built at most once a session, and backends of them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.models import ModelConfig, ModelSource, Parameters
from worker.backends import Backend, LoadOptions, load_backend

Build = Callable[[str], Path]
LoadFolder = Callable[..., Backend]


@pytest.fixture(scope="module", autouse=True)
def libraries() -> Iterator[None]:
    """Loaded, and out of the garbage collector's sight: each close of a model collects, a quarter of a second with them."""
    import sentence_transformers  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A model's folder, by the name of its layout."""
    from tests.support.models import BUILDERS
    from tests.support.rerankers import RERANKERS

    root = tmp_path_factory.mktemp("models")

    def built(name: str) -> Path:
        folder = root / name
        return folder if folder.exists() else (BUILDERS | RERANKERS)[name](folder)

    return built


@pytest.fixture(scope="session")
def exported(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The export of a layout, made at most once a session, in this process: starting another takes seconds."""
    root = tmp_path_factory.mktemp("exports")

    def made(name: str) -> Path:
        from worker.backends.exporting import export

        folder = root / name
        if not folder.exists():
            folder.mkdir()
            config = ModelConfig(name=name, parameters=Parameters(model=str(build(name))))
            export(config, ModelSource(directory=build(name)), folder, threads=1)
        return folder

    return made


@pytest.fixture
def load_folder() -> Iterator[LoadFolder]:
    """Load a folder as a worker does, with keys of its entry; closed after the test."""
    loaded: list[Backend] = []

    def load(folder: Path, **entry: Any) -> Backend:
        config = ModelConfig(name="m", parameters=Parameters(model=str(folder)), **entry)
        loaded.append(load_backend(config, ModelSource(directory=folder), LoadOptions(device="cpu", threads=1)))
        return loaded[-1]

    yield load
    for backend in loaded:
        backend.close()
