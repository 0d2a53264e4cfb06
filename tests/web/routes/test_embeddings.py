"""POST /v1/embeddings: what is answered, and what is refused by name."""

from __future__ import annotations

import base64
import gzip
import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest
from flask.testing import FlaskClient
from redis import Redis

from shared.errors import ContextLengthExceeded, DeadlinePassed, EngineFailed, InvalidParameter, ModelNotReady, UmekomiError
from tests.web.conftest import MakeApp
from tests.web.support import AnsweringWorker, embed, error_of, presence, vector_of

JOBS = "/v1/embeddings/jobs"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/embeddings/", "/embeddings", "/v1/engines/org/m/embeddings"])
def test_every_spelling_of_the_route_answers(client: FlaskClient, answering: AnsweringWorker, path: str) -> None:
    response = embed(client, {"input": ["a b", "c"]}, path)
    body = response.json
    assert response.status_code == 200
    assert body["object"] == "list"
    assert body["model"] == "m"
    assert [entry["index"] for entry in body["data"]] == [0, 1]
    np.testing.assert_allclose(body["data"][1]["embedding"], vector_of("c"), rtol=1e-6)
    assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_base64_and_float_are_the_same_numbers(client: FlaskClient, answering: AnsweringWorker) -> None:
    request = {"model": "m", "input": ["埋め込み", "😀 \x00"]}
    floats = embed(client, request | {"encoding_format": "float"}).json["data"]
    packed = embed(client, request | {"encoding_format": "base64"}).json["data"]
    for one, other in zip(floats, packed, strict=True):
        unpacked = np.frombuffer(base64.b64decode(other["embedding"]), dtype="<f4")
        assert np.array(one["embedding"], dtype=np.float32).tobytes() == unpacked.tobytes()


def test_null_fields_are_as_if_omitted_and_unknown_ones_are_passed_over(client: FlaskClient, answering: AnsweringWorker) -> None:
    fields = dict.fromkeys(["model", "dimensions", "encoding_format", "user", "input_type", "prompt_name", "truncate"])
    response = embed(client, fields | {"input": "a", "unheard_of": [1]})
    assert response.status_code == 200
    assert isinstance(response.json["data"][0]["embedding"], list)
    assert answering.asks[0].dimensions is None


def test_parameters_reach_the_worker(client: FlaskClient, answering: AnsweringWorker) -> None:
    response = embed(client, {"input": "a", "dimensions": 4, "input_type": "query", "truncate": "error", "user": "u"})
    assert len(response.json["data"][0]["embedding"]) == 4
    ask = answering.asks[0]
    assert (ask.dimensions, ask.input_type, ask.truncate, list(ask.texts)) == (4, "query", "error", ["a"])


def test_token_ids_go_to_a_model_that_takes_its_own(client: FlaskClient, answering: AnsweringWorker) -> None:
    assert len(embed(client, {"model": "strict", "input": [5, 6]}).json["data"]) == 1
    assert len(embed(client, {"model": "strict", "input": [[5, 6], [7]]}).json["data"]) == 2
    assert [list(map(list, ask.token_ids)) for ask in answering.asks] == [[[5, 6]], [[5, 6], [7]]]


def test_truncated_inputs_are_named(client: FlaskClient, answering: AnsweringWorker) -> None:
    response = embed(client, {"input": ["short", "w " * 30, "short", "v " * 30]})
    assert response.headers["x-truncated-inputs"] == "1,3"
    assert response.json["usage"]["truncated"] == 2


def test_the_request_id_is_echoed_if_it_can_be_and_made_otherwise(client: FlaskClient, answering: AnsweringWorker) -> None:
    assert embed(client, {"input": "a"}, headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert embed(client, {"input": "a"}, headers={"X-Request-Id": "a b" * 99}).headers["x-request-id"].startswith("req_")
    made = embed(client, {"input": "a"})
    assert made.headers["x-request-id"].startswith("req_")
    assert made.headers["openai-processing-ms"].isdigit()
    assert made.headers["server-timing"].startswith("queue;dur=")


TOO_LONG = "x" * 1025
WRONG: list[tuple[str, Any, str | None]] = [
    ("nothing", b"", None),
    ("half an object", b'{"input": "a"', None),
    ("a list", [], None),
    ("null", None, None),
    ("NaN", b'{"input": NaN}', None),
    ("a number beyond a double", b'{"input": "a", "dimensions": 1e999}', None),
    ("a lone surrogate", b'{"input": "\\ud800"}', None),
    ("invalid UTF-8", b'{"input": "\xff"}', None),
    ("a depth bomb", b'{"input": ' + b"[" * 9000 + b"]" * 9000 + b"}", None),
    ("no input", {}, "input"),
    ("input null", {"input": None}, "input"),
    ("input a number", {"input": 1}, "input"),
    ("input an object", {"input": {"a": 1}}, "input"),
    ("input empty", {"input": ""}, "input"),
    ("input an empty list", {"input": []}, "input"),
    ("an empty text in the list", {"input": ["a", ""]}, "input"),
    ("a null in the list", {"input": ["a", None]}, "input"),
    ("a number among texts", {"input": ["a", 1]}, "input"),
    ("a bool", {"input": [True]}, "input"),
    ("a float", {"input": [1.5]}, "input"),
    ("an object among texts", {"input": [{"text": "a"}]}, "input"),
    ("an empty list of ids", {"model": "strict", "input": [[]]}, "input"),
    ("a text among ids", {"model": "strict", "input": [1, "a"]}, "input"),
    ("a text among lists of ids", {"model": "strict", "input": [[1], "a"]}, "input"),
    ("a negative id", {"model": "strict", "input": [-1]}, "input"),
    ("a huge id", {"model": "strict", "input": [2**40]}, "input"),
    ("a bool among ids", {"model": "strict", "input": [[1, True]]}, "input"),
    ("token ids for a model that takes texts", {"input": [[1, 2]]}, "input"),
    ("too many inputs", {"input": ["a"] * 9}, "input"),
    ("a text too long", {"input": [TOO_LONG]}, "input"),
    ("a text too long in bytes alone", {"input": "埋" * 342}, "input"),
    ("model a number", {"input": "a", "model": 3}, "model"),
    ("dimensions a string", {"input": "a", "dimensions": "4"}, "dimensions"),
    ("dimensions a float", {"input": "a", "dimensions": 4.5}, "dimensions"),
    ("dimensions a bool", {"input": "a", "dimensions": True}, "dimensions"),
    ("dimensions zero", {"input": "a", "dimensions": 0}, "dimensions"),
    ("dimensions huge", b'{"input": "a", "dimensions": 99999999999999999999999}', "dimensions"),
    ("encoding_format unknown", {"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ("user a list", {"input": "a", "user": []}, "user"),
    ("input_type unknown", {"input": "a", "input_type": "x"}, "input_type"),
    ("prompt_name a number", {"input": "a", "prompt_name": 1}, "prompt_name"),
    ("both prompts", {"input": "a", "prompt_name": "query", "input_type": "query"}, "prompt_name"),
    ("truncate unknown", {"input": "a", "truncate": "start"}, "truncate"),
]


@pytest.mark.parametrize(("body", "param"), [pytest.param(body, param, id=name) for name, body, param in WRONG])
def test_a_wrong_request_gets_400_naming_the_parameter(client: FlaskClient, body: Any, param: str | None) -> None:
    response = embed(client, body)
    error = error_of(response)
    assert (response.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert TOO_LONG not in error["message"]


def test_messages_say_what_to_do(client: FlaskClient) -> None:
    assert JOBS in error_of(embed(client, {"input": ["a"] * 9}))["message"]
    assert "check_embedding_ctx_length=False" in error_of(embed(client, {"input": [1]}))["message"]
    assert "position 1" in error_of(embed(client, {"input": ["a", 2]}))["message"]


def test_the_last_of_two_equal_keys_counts(client: FlaskClient, answering: AnsweringWorker) -> None:
    assert embed(client, b'{"input": "a", "input": "b"}').status_code == 200
    assert list(answering.asks[0].texts) == ["b"]


def test_an_unknown_model_gets_404_with_the_served_names(client: FlaskClient) -> None:
    response = embed(client, {"input": "a", "model": "gpt"})
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (404, "model", "model_not_found")
    assert "strict" in error["message"]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/csv"])
def test_another_content_type_gets_415(client: FlaskClient, kind: str) -> None:
    response = embed(client, b"input=a", content_type=kind)
    assert (response.status_code, error_of(response)["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("kind", [None, "text/json", "application/json; charset=utf-8", "Application/JSON"])
def test_json_is_read_under_its_lenient_names(client: FlaskClient, answering: AnsweringWorker, kind: str | None) -> None:
    assert client.post("/v1/embeddings", data=b'{"input":"a"}', content_type=kind).status_code == 200


def test_an_announced_body_over_the_limit_gets_413_unread(client: FlaskClient) -> None:
    response = embed(client, {"input": "x" * 30_000})
    assert response.status_code == 413
    assert JOBS in error_of(response)["message"]


class Endless:
    """A body that never ends, and counts what was read of it."""

    def __init__(self, piece: bytes) -> None:
        self.piece, self.read_bytes = piece, 0

    def read(self, size: int = -1) -> bytes:
        self.read_bytes += len(self.piece)
        return self.piece

    def readline(self, size: int = -1) -> bytes:
        return self.read()


def post_stream(client: FlaskClient, stream: Any, path: str = "/v1/embeddings", **kwargs: Any) -> Any:
    overrides = {"wsgi.input_terminated": True, "wsgi.input": stream, "CONTENT_LENGTH": ""}
    return client.post(path, environ_overrides=overrides, **kwargs)


def test_a_body_without_a_length_is_refused_while_it_is_read(client: FlaskClient) -> None:
    body = Endless(b"x" * 10_000)
    response = post_stream(client, body, content_type="application/json")
    assert response.status_code == 413
    assert body.read_bytes <= 40_000


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_packed_bodies_are_read_and_their_bombs_are_not(
    client: FlaskClient, answering: AnsweringWorker, encoding: str, pack: Any
) -> None:
    def send(body: bytes) -> Any:
        return embed(client, body, headers={"Content-Encoding": encoding})

    assert send(pack(b'{"input":"a"}')).status_code == 200
    assert send(pack(b" " * 10_000_000)).status_code == 413
    assert send(pack(b'{"input":"a"}')[:-3]).status_code == 400
    assert send(b"not packed").status_code == 400
    assert embed(client, b"{}", headers={"Content-Encoding": "br"}).status_code == 415


FAILURES: list[tuple[UmekomiError, int, str]] = [
    (ContextLengthExceeded("too long", param="input"), 400, "context_length_exceeded"),
    (InvalidParameter("dimensions: the model has 8", param="dimensions"), 400, "invalid_value"),
    (ModelNotReady("loading", retry_after_s=400.0), 503, "model_not_ready"),
    (DeadlinePassed("late"), 503, "deadline_passed"),
    (EngineFailed("NaN"), 500, "engine_failed"),
]


@pytest.mark.parametrize(("failure", "status", "code"), FAILURES, ids=[code for _, _, code in FAILURES])
def test_the_workers_error_is_the_clients(
    client: FlaskClient, answering: AnsweringWorker, failure: UmekomiError, status: int, code: str
) -> None:
    answering.reply = lambda _ask: failure
    response = embed(client, {"input": "a"})
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (status, code, failure.param)
    if status == 503:
        assert 1 <= int(response.headers["Retry-After"]) < 30
        assert 0 < int(response.headers["retry-after-ms"]) < 30_000
    else:
        assert "Retry-After" not in response.headers
    assert response.headers.get("x-should-retry") == ("false" if status == 500 else None)


def test_without_a_worker_the_client_hears_503_at_once(client: FlaskClient) -> None:
    response = embed(client, {"input": "a"})
    assert (response.status_code, error_of(response)["code"]) == (503, "no_worker")


@pytest.fixture
def deaf_worker(redis: Redis) -> Iterator[None]:
    """A worker that is there and takes nothing."""
    from shared.presence import PresenceBoard
    from tests.web.support import worker

    PresenceBoard(redis).announce(worker({"m": presence()}))
    return


def test_a_full_lane_gets_429(make_app: MakeApp, deaf_worker: None, redis: Redis) -> None:
    from shared import keys

    app = make_app(interactive_max_waiting=1)
    redis.xadd(keys.asks("m"), {"ask": b"{}", "to": "x", "size": 1, "deadline": str(time.time() + 60)})
    response = embed(app.test_client(), {"input": "a"})
    error = error_of(response)
    assert (response.status_code, error["code"], error["type"]) == (429, "lane_full", "rate_limit_error")
    assert response.headers["Retry-After"] == "1"


def test_an_answer_that_does_not_come_is_503(make_app: MakeApp, deaf_worker: None) -> None:
    response = embed(make_app(interactive_timeout_s=0.3).test_client(), {"input": "a"})
    assert (response.status_code, error_of(response)["code"]) == (503, "deadline_passed")


def test_without_redis_the_client_hears_503(make_app: MakeApp) -> None:
    response = embed(make_app(redis_url="redis://127.0.0.1:1/0").test_client(), {"input": "a"})
    assert (response.status_code, error_of(response)["code"]) == (503, "redis_unavailable")
    assert int(response.headers["Retry-After"]) < 30


def test_respond_async_makes_a_job(client: FlaskClient) -> None:
    response = embed(client, {"input": ["a", "b"], "encoding_format": "base64"}, headers={"Prefer": "respond-async, wait=5"})
    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "respond-async"
    assert response.headers["Location"] == f"{JOBS}/{response.json['id']}"
    assert response.json["counts"]["total"] == 2


def test_other_methods_are_refused_in_the_same_form(client: FlaskClient) -> None:
    response = client.get("/v1/embeddings")
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
    assert "POST" in response.headers["Allow"]
    options = client.options("/v1/embeddings")
    assert (options.status_code, options.mimetype) == (200, "application/json")
    assert orjson.loads(client.get("/nowhere").data)["error"]["code"] == "not_found"
    assert client.get("/nowhere").status_code == 404
