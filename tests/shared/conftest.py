"""Storage of every kind, for the contract tests: each runs on a directory and on S3."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.storage import Storage, open_storage
from tests.support.s3 import S3, running_s3


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    """One server for all tests."""
    with running_s3() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The server, and the environment that leads to it."""
    for name, value in s3_server.variables.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(params=["directory", "s3"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty storage lies."""
    if request.param == "directory":
        return str(tmp_path / "storage")
    server: S3 = request.getfixturevalue("s3")
    return f"{server.url}/{uuid.uuid4().hex}"


@pytest.fixture
def storage(storage_url: str) -> Storage:
    """An empty storage."""
    return open_storage(storage_url)
