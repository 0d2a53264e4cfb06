"""An app on a real Redis and a storage directory, with or without a worker that answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from shared.settings import Settings
from tests.web.support import AnsweringWorker, model, presence, registry
from web.app import create_app
from web.parts import EXTENSION, Parts

MakeApp = Callable[..., Flask]


@pytest.fixture
def make_app(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeApp]:
    """create_app with settings of one's own; every app is closed in the end."""
    monkeypatch.setenv("UMEKOMI_DATA_DIR", str(tmp_path / "data"))
    made: list[Flask] = []

    def make(**settings: Any) -> Flask:
        models = settings.pop("models", None) or registry(model("m", alias="org/m"), model("strict", token_ids="model"))
        settings = {"redis_url": redis_url, "storage_url": str(tmp_path / "storage")} | settings
        made.append(create_app(Settings(**settings), models))
        return made[-1]

    yield make
    for app in made:
        app.extensions[EXTENSION].close()


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An app with small limits."""
    return make_app(max_inputs=8, max_request_bytes=20_000, max_text_bytes=1024, interactive_timeout_s=5)


@pytest.fixture
def parts(app: Flask) -> Parts:
    """What the app opened."""
    found: Parts = app.extensions[EXTENSION]
    return found


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client of the app; nobody answers asks."""
    return app.test_client()


@pytest.fixture
def answering(redis: Redis) -> Iterator[AnsweringWorker]:
    """A worker that answers asks for both models."""
    with AnsweringWorker(redis, {"m": presence(prompts=("query",)), "strict": presence()}).running() as running:
        yield running
