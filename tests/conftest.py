"""Fixtures for everybody: a real Valkey, started once; an empty one for each test; storage in a temporary directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis import Redis

from shared.connections import connect
from shared.storage import DirectoryStorage
from tests.support.valkey import Valkey
from worker import threads

# An export of the real model takes as long as ten tests: it is made once, and kept between runs.
os.environ.setdefault("UMEKOMI_ENGINES_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "engines"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests run side by side by file; those that share an installation one after the other."""
    for item in items:
        folder = item.path.parent.name
        shares = folder in ("docs", "ui") or (folder == "acceptance" and "installation" in getattr(item, "fixturenames", ()))
        item.add_marker(pytest.mark.xdist_group(folder if shares else str(item.path)))


@pytest.fixture(scope="session", autouse=True)
def _threads_that_die_fail_the_test() -> Iterator[None]:
    """In a worker they end the process; here that would be the one that runs the tests."""

    def tell(code: int) -> None:
        raise RuntimeError("a thread died that a worker cannot do without")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "os", SimpleNamespace(_exit=tell))
        yield


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
