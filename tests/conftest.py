"""Fixtures for everybody: a real Valkey, started once; an empty one for each test; storage in a temporary directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from shared.connections import connect
from shared.storage import DirectoryStorage
from tests.support.valkey import Valkey

# An export of the real model takes as long as ten tests: it is made once, and kept between runs.
os.environ.setdefault("UMEKOMI_ENGINES_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "engines"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests run side by side by file; those on real processes one after the other, since they share an installation."""
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group(folder if folder in ("acceptance", "docs", "ui") else str(item.path)))


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One server for all tests that do not kill it."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(valkey: Valkey) -> str:
    """An empty Redis."""
    with Redis.from_url(valkey.url) as redis:
        redis.flushall()
    return valkey.url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A client of an empty Redis, opened as the product opens it."""
    client = connect(redis_url, timeout_s=5.0)
    yield client
    client.close()


@pytest.fixture
def storage(tmp_path: Path) -> DirectoryStorage:
    """An empty storage directory."""
    return DirectoryStorage(tmp_path / "storage")
