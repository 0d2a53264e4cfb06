from __future__ import annotations

import json

from tests.support.api import FakeApi, Reply
from tests.support.commands import Run

MINILM = {"id": "all-MiniLM-L6-v2", "object": "model", "state": "ready", "dimensions": 384, "max_tokens": 256, "reason": None}
BROKEN = {"id": "e5", "object": "model", "state": "failed", "dimensions": None, "reason": "no such directory"}


def test_the_models_are_a_table(ask: Run, api: FakeApi) -> None:
    api.on("GET", "/v1/models", Reply({"data": [MINILM, BROKEN]}))

    lines = ask("models", "list").stdout.splitlines()

    assert lines[1].split() == ["all-MiniLM-L6-v2", "ready", "384", "256"]
    assert "failed: no such directory" in lines[2]


def test_json_is_an_object_a_line(ask: Run, api: FakeApi) -> None:
    api.on("GET", "/v1/models", Reply({"data": [MINILM, BROKEN]}))

    assert [json.loads(line) for line in ask("models", "list", "--json").stdout.splitlines()] == [MINILM, BROKEN]
