"""A worker's end of the interactive lane inside a test: the real engine with the fake backend, no process and no Celery."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask

from shared.connections import connect
from shared.interactive import AskServer
from shared.models import ModelRegistry
from shared.presence import BEAT_S, PresenceBoard, WorkerPresence
from shared.settings import Settings
from tests.support.waiting import wait_until
from web.app import create_app
from web.parts import EXTENSION
from worker.engine import Engine
from worker.interactive import AskLoop


@contextmanager
def lane_worker(redis_url: str, registry: ModelRegistry) -> Iterator[Engine]:
    """Serves the models until the end of the block; they are loaded, but for those that say `preload: false`."""
    redis = connect(redis_url, timeout_s=5.0)
    redis.flushall()  # what the tests of another file left
    board = PresenceBoard(redis)
    engine = Engine(Settings(device="cpu", streams=1), registry)
    asks = AskLoop(AskServer(redis, "w1"), engine, registry)

    def announce() -> None:
        board.announce(
            WorkerPresence(
                id="w1",
                host="here",
                pid=1,
                device="cpu",
                started_at=time.time(),
                shards_at_once=1,
                models=engine.presence(),
            )
        )

    stopping = threading.Event()

    def beat() -> None:
        while not stopping.wait(BEAT_S):
            announce()

    thread = threading.Thread(target=beat, name="beat")
    engine.start()
    try:
        wanted = {config.name for config in registry if config.preload}
        wait_until(lambda: wanted <= {name for name, model in engine.presence().items() if model.state == "ready"})
        announce()
        thread.start()
        asks.start()
        yield engine
    finally:
        stopping.set()
        asks.stop()
        engine.stop()
        thread.join()
        redis.close()


@contextmanager
def served_models(redis_url: str, directory: Path, registry: ModelRegistry, **settings: Any) -> Iterator[Flask]:
    """An app, and a worker that answers it: for tests that only ask, and may share it."""
    settings = {"redis_url": redis_url, "data_dir": directory, "interactive_timeout_s": 20} | settings
    app = create_app(Settings(**settings), registry)
    try:
        with lane_worker(redis_url, registry):
            yield app
    finally:
        app.extensions[EXTENSION].close()
