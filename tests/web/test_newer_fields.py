"""The same of the routes of LocalAI, Ollama, TEI and vLLM: whatever a field holds, it is taken or refused by name."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from flask import Flask
from pydantic import BaseModel

from tests.web.conftest import MakeApp
from tests.web.support import AnsweringWorker
from tests.web.test_fields import VALUES
from web.openapi.document import routes
from web.openapi.operations import operation_of

RIGHT: dict[str, dict[str, Any]] = {
    "/v1/rerank": {"model": "m", "query": "q", "documents": ["a"]},
    "/v1/tokenize": {"model": "m", "content": "a"},
    "/v1/detokenize": {"model": "m", "tokens": [1]},
    "/decode": {"ids": [1]},
    "/embed": {"inputs": ["a"]},
    "/api/embed": {"model": "m", "input": "a"},
    "/api/embeddings": {"model": "m", "prompt": "a"},
    "/api/show": {"model": "m"},
    "/models/apply": {"id": "org/name"},
    # Of a model that is there they wait for its worker.
    "/backend/load": {"model": "unknown"},
    "/backend/shutdown": {"model": "unknown"},
}
# Names of the same thing: another of them is one too many.
SAME = ({"content", "prompt", "input", "inputs"}, {"documents", "texts"}, {"tokens", "ids"})
RAW = [raw for values in VALUES.values() for raw in values]
# Of the whole body, whose last key of a name counts.
BODIES = [
    b"",
    b"null",
    b"[]",
    b'"a"',
    b"NaN",
    b'{"model": NaN}',
    b'{"model": 1e999}',
    b'{"model": "\\ud800"}',
    b'{"model": "m"',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"model": 5, "model": []}',
    b'{"model": "m", "model": {}}',
    b'\xff\xfe{"model": "m"}',
]
QUERIES = ["?model=", "?model=%00", "?model=%ff%fe", "?model=a&model=b", "?model=" + "x" * 5000, "?%6dodel=nope", "?&&=&model"]


def schemas(app: Flask) -> dict[str, type[BaseModel]]:
    found = {}
    for route in routes(app):
        operation = operation_of(route.view)
        if route.path in RIGHT and route.method == "POST" and operation is not None:
            found[route.path] = operation.takes[0].schema
    return found


def check(response: Any, path: str, names: set[str], raw: bytes) -> None:
    told = (path, raw[:60], response.data[:300])
    busy = {503} if "token" in path or path == "/decode" else set()  # the double does not tokenize
    assert response.status_code in {200, 400, 404, 413} | busy, told
    if response.status_code == 200:
        return
    error = orjson.loads(response.data)["error"]
    message = error if path.startswith("/api/") else error["message"]
    assert message, told
    assert len(message) < 1000, told
    if names and not path.startswith("/api/") and response.status_code in (400, 404):
        assert (error["param"] or "").partition(".")[0] in names, told


@pytest.mark.parametrize("path", sorted(RIGHT))
def test_whatever_a_field_holds_it_is_taken_or_refused_by_name(make_app: MakeApp, answering: AnsweringWorker, path: str) -> None:
    app = make_app(interactive_timeout_s=5)
    client = app.test_client()
    fields = set(schemas(app)[path].model_fields)
    for name in fields:
        names = {name} | next((same for same in SAME if name in same), set())
        right = {key: value for key, value in RIGHT[path].items() if key not in names}
        if path == "/models/apply":
            names |= {"id", "url", "name", "overrides"}  # of which one follows from the other
        if path.startswith("/backend/"):
            names |= {"model"}
        begin = b"".join(b"%s: %s, " % (orjson.dumps(key), orjson.dumps(value)) for key, value in right.items())
        for raw in RAW:
            body = b"{" + begin + orjson.dumps(name) + b": " + raw + b"}"
            response = client.post(path, data=body, content_type="application/json")
            check(response, path, names, raw)


@pytest.mark.parametrize("path", sorted(RIGHT))
def test_a_body_that_is_not_an_object_or_says_a_thing_twice_is_the_clients_fault(
    make_app: MakeApp, answering: AnsweringWorker, path: str
) -> None:
    client = make_app(interactive_timeout_s=5).test_client()
    for raw in BODIES:
        response = client.post(path, data=raw, content_type="application/json")
        check(response, path, set(), raw)
        assert 400 <= response.status_code < 500, (path, raw[:60], response.data)


@pytest.mark.parametrize("path", ["/backend/monitor", "/v1/models", "/models/jobs", "/system", "/api/tags", "/v1/overview"])
def test_an_odd_query_is_no_error_of_the_server(make_app: MakeApp, path: str) -> None:
    client = make_app().test_client()
    for query in QUERIES:
        response = client.get(path + query)
        assert response.status_code in (200, 400, 404), (path, query, response.data)
