"""A fake hub, and a client of it with an empty cache that loses no time."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.hub import Hub
from tests.support.hub import FakeHub, hub_server  # noqa: F401 - a fixture, by the name of `server`


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path) -> Hub:
    return Hub(endpoint=server.url, token=None, cache=tmp_path / "cache", connect_timeout_s=2, read_timeout_s=2, pause_s=0.01)
