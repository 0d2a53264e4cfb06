"""How many CPU threads a model's batches get: the entry's own number, else the worker's shared out over its streams."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import pytest

from shared.models import ModelConfig, ModelRegistry, ModelSource, Parameters
from shared.settings import Settings
from worker.backends import Backend, LoadOptions, load_backend
from worker.engine import Engine


@pytest.mark.parametrize(
    ("settings", "entry", "threads", "alone"),
    [
        ({"threads": 6, "streams": 2}, {}, 3, 4),
        ({"threads": 3}, {}, 1, 3),
        ({"threads": 6, "streams": 2}, {"threads": 4}, 4, 0),
        ({"threads": 1, "streams": 2}, {}, 1, 1),
    ],
)
def test_threads_of_a_batch(settings: dict[str, Any], entry: dict[str, Any], threads: int, alone: int) -> None:
    loads: SimpleQueue[LoadOptions] = SimpleQueue()

    def load(config: ModelConfig, source: ModelSource, options: LoadOptions) -> Backend:
        loads.put(options)
        return load_backend(config, source, options)

    model = ModelConfig(name="m", backend="fake", parameters=Parameters(model="fake"), **entry)
    engine = Engine(Settings(device="cpu", **settings), ModelRegistry({"m": model}), load=load)
    engine.start()
    try:
        options = loads.get(timeout=10)
        assert (options.threads, options.lone_threads) == (threads, alone)
    finally:
        engine.stop()
