"""A fake hub, and a client of it with an empty cache that loses no time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.hub import Hub
from tests.support.hub import FakeHub, running_hub


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with running_hub() as running:
        yield running


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path) -> Hub:
    return Hub(endpoint=server.url, token=None, cache=tmp_path / "cache", connect_timeout_s=2, read_timeout_s=2, pause_s=0.01)
