"""Ollama's routes: with the real `ollama` package, and by hand what it never sends."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread
from typing import Any

import numpy as np
import ollama
import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from tests.web.conftest import MakeApp
from tests.web.support import AnsweringWorker, embed, model, registry, vector_of

MODELS = registry(model("m"), model("strict", token_ids="model"), model("tagged:v2"))


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app(models=MODELS, max_inputs=8, max_text_bytes=1024, interactive_timeout_s=5)


@pytest.fixture
def sdk(app: Flask) -> Iterator[ollama.Client]:
    """The client, over a socket."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = Thread(target=server.serve_forever, name="test-server")
    thread.start()
    client = ollama.Client(host=f"http://127.0.0.1:{server.port}", timeout=20)
    yield client
    client._client.close()
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_clients_calls_are_answered(sdk: ollama.Client, answering: AnsweringWorker) -> None:
    many = sdk.embed(model="m", input=["one", "two"], keep_alive="5m", options={"num_ctx": 512}, truncate=True)
    np.testing.assert_allclose(many.embeddings[1], vector_of("two"), rtol=1e-6)
    assert (many.model, many.prompt_eval_count) == ("m", 6)
    assert many.total_duration is not None
    assert many.total_duration > 0
    short = sdk.embed(model="m:latest", input="one", dimensions=4)
    assert (short.model, len(short.embeddings), len(short.embeddings[0])) == ("m:latest", 1, 4)
    assert sdk.embed(model="m", input=[]).embeddings == []

    single = sdk.embeddings(model="m", prompt="one")
    np.testing.assert_allclose(single.embedding, vector_of("one"), rtol=1e-6)
    assert sdk.embeddings(model="m", prompt="").embedding == []

    assert [each.model for each in sdk.list().models] == ["m:latest", "strict:latest", "tagged:v2"]
    assert [each.model for each in sdk.ps().models] == ["m:latest", "strict:latest"]
    shown = sdk.show("m:latest")
    assert shown.capabilities == ["embedding"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["bert.embedding_length"] == 8
    assert shown.modelinfo["bert.context_length"] == 16
    for each in sdk.list().models:
        assert each.model is not None
        assert sdk.show(each.model).details is not None


def test_the_client_reads_our_errors(sdk: ollama.Client, answering: AnsweringWorker) -> None:
    with pytest.raises(ollama.ResponseError, match='model "unheard" not found') as unknown:
        sdk.embed(model="unheard:latest", input="a")
    assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="position 0 is empty") as empty:
        sdk.embed(model="m", input=[""])
    assert empty.value.status_code == 400


def test_a_text_is_cut_unless_the_client_says_otherwise(client: FlaskClient, answering: AnsweringWorker) -> None:
    for body, truncate in (({}, "end"), ({"truncate": True}, "end"), ({"truncate": False}, "error")):
        assert embed(client, {"model": "m", "input": "a", **body}, "/api/embed").status_code == 200
        assert answering.asks[-1].truncate == truncate


def test_a_body_is_json_whatever_it_says_it_is(client: FlaskClient, answering: AnsweringWorker) -> None:
    for path, body in (("/api/embed", {"model": "m", "input": "a"}), ("/api/embeddings/", {"model": "m", "prompt": "a"})):
        response = embed(client, body, path, content_type="application/x-www-form-urlencoded")
        assert response.status_code == 200
    assert embed(client, {"name": "m"}, "/api/show").status_code == 200


WRONG: list[tuple[str, Any, int]] = [
    ("/api/embed", {"model": "m", "input": 1}, 400),
    ("/api/embed", {"model": "m", "input": {"a": 1}}, 400),
    ("/api/embed", {"model": "m", "input": ["a", 1]}, 400),
    ("/api/embed", {"model": "m", "input": [[1]]}, 400),
    ("/api/embed", {"model": "m", "input": ["a"] * 9}, 400),
    ("/api/embed", {"model": "m", "input": "w" * 1025}, 400),
    ("/api/embed", {"model": 1, "input": "a"}, 400),
    ("/api/embed", {"model": "m", "input": "a", "truncate": "yes"}, 400),
    ("/api/embed", {"model": "m", "input": "a", "dimensions": -1}, 400),
    ("/api/embed", {"model": "m", "input": "a", "dimensions": "4"}, 400),
    ("/api/embed", {"model": "m", "input": "a", "dimensions": 2**40}, 400),
    ("/api/embed", {"model": "no", "input": "a"}, 404),
    ("/api/embed", b'{"model": "m", "input": "\\ud800"}', 400),
    ("/api/embed", b'{"model": "m", "input": NaN}', 400),
    ("/api/embed", b"", 400),
    ("/api/embed", b"[]", 400),
    ("/api/embeddings", {"model": "m", "prompt": ["a"]}, 400),
    ("/api/embeddings", {"model": "m", "prompt": 0}, 400),
    ("/api/embeddings", {"model": "m", "prompt": "w" * 1025}, 400),
    ("/api/show", {"model": ["m"]}, 400),
    ("/api/show", {"model": "no"}, 404),
]


def test_errors_are_one_sentence_as_ollama_writes_them(client: FlaskClient, answering: AnsweringWorker) -> None:
    for path, body, status in WRONG:
        response = embed(client, body, path)
        assert response.status_code == status, (body, response.data)
        assert list(response.json) == ["error"], body
        assert isinstance(response.json["error"], str)
    for response, status in ((client.get("/api/embed"), 405), (client.post("/api/generate", json={}), 404)):
        assert (response.status_code, type(response.json["error"])) == (status, str)
    assert isinstance(client.post("/v1/embeddings", json={}).json["error"], dict)


def test_without_a_worker_they_say_when_to_come_back(client: FlaskClient) -> None:
    response = embed(client, {"model": "m", "input": "a"}, "/api/embed")
    assert response.status_code == 503
    assert isinstance(response.json["error"], str)
    assert int(response.headers["Retry-After"]) < 30


def test_the_version_and_every_method_are_answered(client: FlaskClient) -> None:
    assert set(orjson.loads(client.get("/api/version").data)) == {"version"}
    for path in (
        "/api/embed",
        "/v1/rerank",
        "/v1/tokenize",
        "/v1/detokenize",
        "/embed",
        "/v1/engines/m/embeddings",
        "/embeddings/",
    ):
        options = client.options(path)
        assert options.status_code in (200, 204)
        assert "POST" in options.headers["Allow"]
    for path in ("/api/tags", "/api/version", "/info", "/"):
        head = client.head(path)
        assert (head.status_code, head.data) == (200, b"")
