"""What the worker's tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.hub import Hub
from tests.support.hub import FakeHub, hub_server  # noqa: F401 - a fixture, by the name of `server`


@pytest.fixture(scope="module")
def frozen() -> Iterator[None]:
    """Each close of a model collects garbage, for which the libraries' many objects need not be looked at every time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path) -> Hub:
    return Hub(endpoint=server.url, token=None, cache=tmp_path / "cache", pause_s=0.01)
