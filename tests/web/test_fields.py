"""Every field of every JSON body with all that JSON can hold: taken, or refused by its name, and never anything else."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient

from shared.jobs.wire import JOBS
from shared.openai import EmbeddingsBody
from tests.web.conftest import MakeApp
from tests.web.support import AnsweringWorker, error_of, model, registry
from web.batches import BatchFields
from web.native import JobBody

DEEP = 400  # what the parser still reads
# Raw JSON by its type.
VALUES: dict[str, list[bytes]] = {
    "bool": [b"true", b"false"],
    "int": [b"0", b"-1", b"2147483648", b"9" * 19, b"-" + b"9" * 30],
    "float": [b"1.0", b"-0.5", b"1e300", b"5e-324"],
    "text": [
        b'""',
        b'" "',
        b'"\\u0000"',
        b'"a\\u0000b"',
        '"😀👩‍👩‍👧"'.encode(),
        '"مرحبا \u202eabc"'.encode(),
        '"埋め込み\ufeff"'.encode(),
        b'"../../etc/passwd"',
        b'"a\\r\\nx-injected: 1"',
        b'"' + b"w" * 1_000_000 + b'"',
        b'"null"',
        b'"1"',
    ],
    "list": [b"[]", b"[null]", b"[{}]", b'[[""]]', b"[true]", b'["a", 1]', b"[" * DEEP + b"]" * DEEP],
    "object": [b"{}", b'{"": null}', b'{"a": 1}', b'{"a": {"b": []}}', b'{"a":' * DEEP + b"1" + b"}" * DEEP],
}
# Which of them a field may take; none: one of a few words.
EMBEDDINGS: dict[str, set[str]] = {
    "input": {"text", "list"},
    "model": {"text"},
    "dimensions": {"int"},
    "encoding_format": {"text"},
    "user": {"text"},
    "input_type": {"text"},
    "prompt_name": {"text"},
    "truncate": {"text"},
}
BATCHES: dict[str, set[str]] = {
    "input_file_id": {"text"},
    "endpoint": {"text"},
    "completion_window": {"text"},
    "metadata": {"object"},
    "output_expires_after": {"object"},
}
JOB: dict[str, set[str]] = {
    "input": {"text", "list"},
    "input_file_id": {"text"},
    "input_url": {"text"},
    "model": {"text"},
    "dimensions": {"int"},
    "input_type": {"text"},
    "prompt_name": {"text"},
    "truncate": {"text"},
    "priority": {"text"},
    "metadata": {"object"},
    "dedupe": {"bool"},
    "cache": {"bool"},
    "on_duplicate": {"text"},
    "format": {"text"},
    "text_column": {"text"},
    "id_column": {"text"},
    "metadata_columns": {"list"},
    "delimiter": {"text"},
    "webhook_url": {"text"},
}
ROUTES: dict[str, tuple[dict[str, set[str]], dict[str, Any]]] = {
    "/v1/embeddings": (EMBEDDINGS, {"model": "m", "input": "a"}),
    "/v1/batches": (BATCHES, {"input_file_id": "file-x", "endpoint": "/v1/embeddings", "completion_window": "24h"}),
    JOBS: (JOB, {"model": "m", "input": ["a"]}),
}
FIELDS = [pytest.param(path, name, id=f"{path} {name}") for path, (fields, _) in ROUTES.items() for name in fields]


@pytest.fixture
def roomy(make_app: MakeApp) -> Flask:
    """An app that reads large texts, and models of both policies."""
    return make_app(models=registry(model("m"), model("ids", token_ids="model")), interactive_timeout_s=5)


def body_with(path: str, name: str, raw: bytes) -> bytes:
    """A right request but for one field."""
    right = {key: value for key, value in ROUTES[path][1].items() if key != name}
    if path == JOBS and name in ("input_file_id", "input_url"):
        del right["input"]
    return (
        b"{"
        + b"".join(b"%s: %s, " % (orjson.dumps(key), orjson.dumps(value)) for key, value in right.items())
        + (b"%s: %s}" % (orjson.dumps(name), raw))
    )


def send(client: FlaskClient, path: str, raw: bytes) -> Any:
    return client.post(path, data=raw, content_type="application/json")


def test_the_table_has_every_field() -> None:
    for fields, shown in ((EMBEDDINGS, EmbeddingsBody), (BATCHES, BatchFields), (JOB, JobBody)):
        assert set(fields) == set(shown.model_fields)


@pytest.mark.parametrize(("path", "name"), FIELDS)
def test_a_value_of_a_wrong_type_gets_400_naming_the_field(
    roomy: Flask, answering: AnsweringWorker, path: str, name: str
) -> None:
    client = roomy.test_client()
    for kind, values in VALUES.items():
        for raw in values if kind not in ROUTES[path][0][name] else ():
            response = send(client, path, body_with(path, name, raw))
            error = error_of(response)
            told = (response.status_code, error["type"], error["param"])
            assert told == (400, "invalid_request_error", name), (raw[:60], error)
            assert len(error["message"]) < 1000


@pytest.mark.parametrize(("path", "name"), FIELDS)
def test_a_value_of_the_right_type_is_taken_or_refused_by_name(
    roomy: Flask, answering: AnsweringWorker, path: str, name: str
) -> None:
    client = roomy.test_client()
    for kind in ROUTES[path][0][name]:
        for raw in VALUES[kind]:
            response = send(client, path, body_with(path, name, raw))
            if response.status_code >= 300 and not (path == "/v1/batches" and response.status_code == 404):
                assert response.status_code in (400, 404), (raw[:60], response.data[:300])
                error = error_of(response)
                assert (error["param"] or "").partition(".")[0] == name, (raw[:60], error)
                assert len(error["message"]) < 1000
            assert "x-injected" not in response.headers


NOT_JSON = [
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"1" + b"0" * 400,
    b"01",
    b"0x10",
    b"'a'",
    b"undefined",
    b'"\\ud800"',
    b'"\\udfff\\ud800"',
    b'"\xed\xa0\x80"',
    b'"\xff"',
    b'"a\nb"',
    b'"\\x00"',
    b'{"\\ud800": 1}',
    b"[" * 100_000,
    b"[" * 2000 + b"]" * 2000,
    b"[1,]",
    b"",
]


@pytest.mark.parametrize("path", ROUTES)
def test_what_no_json_is_gets_400_wherever_it_stands(client: FlaskClient, path: str) -> None:
    for name in ROUTES[path][0]:
        for raw in NOT_JSON:
            response = send(client, path, body_with(path, name, raw))
            told = (response.status_code, error_of(response)["code"])
            assert told in ((400, "invalid_json"), (413, "request_too_large")), (name, raw[:40], response.data[:200])


@pytest.mark.parametrize("path", ROUTES)
def test_of_a_key_that_comes_twice_the_last_counts(roomy: Flask, answering: AnsweringWorker, path: str) -> None:
    client = roomy.test_client()
    for name in ROUTES[path][0]:
        wrong = next(values[0] for kind, values in VALUES.items() if kind not in ROUTES[path][0][name])
        right = body_with(path, name, b"null")
        twice = right[:-1] + b", %s: %s}" % (orjson.dumps(name), wrong)
        assert error_of(send(client, path, twice))["param"] == name


def test_a_text_of_a_megabyte_in_one_word_is_embedded(roomy: Flask, answering: AnsweringWorker) -> None:
    response = send(roomy.test_client(), "/v1/embeddings", body_with("/v1/embeddings", "input", b'"' + b"w" * 1_000_000 + b'"'))
    assert response.status_code == 200


def test_as_many_inputs_as_openai_takes_are_answered_in_order(roomy: Flask, answering: AnsweringWorker) -> None:
    client = roomy.test_client()
    texts = [f"text {number}" for number in range(2048)]
    response = client.post("/v1/embeddings", json={"input": texts})
    assert [entry["index"] for entry in response.json["data"]] == list(range(2048))
    refused = client.post("/v1/embeddings", json={"input": [*texts, "one more"]})
    assert (refused.status_code, error_of(refused)["param"]) == (400, "input")


HEADERS: list[tuple[str, str, int, str | None]] = [
    ("Content-Type", "nonsense", 415, "Content-Type"),
    ("Content-Type", "text/html; charset=\u00ff", 415, "Content-Type"),
    ("Content-Encoding", "br, gzip", 415, "Content-Encoding"),
    ("Content-Encoding", "gzip", 400, "Content-Encoding"),
    ("Accept", "nonsense;q=x", 200, None),
    ("Accept", "text/html", 200, None),
    ("Accept-Encoding", "\u00ff" * 100, 200, None),
    ("Prefer", ";;,=respond-async", 200, None),
    ("Authorization", "\u00ff", 200, None),
    ("Authorization", "Basic !!!", 200, None),
    ("X-Request-Id", "\u00ff", 200, None),
    ("Expect", "nothing", 200, None),
    ("X-Stainless-Retry-Count", "x", 200, None),
    ("OpenAI-Organization", "x" * 4000, 200, None),
    ("Range", "bytes=9-1", 200, None),
    ("If-None-Match", '"', 200, None),
    ("Cookie", "a=\u00ff; =; ;", 200, None),
    ("Host", "%%%", 200, None),
    ("X-Forwarded-For", "x" * 4000, 200, None),
]


@pytest.mark.parametrize(("name", "value", "status", "param"), HEADERS)
def test_a_wrong_header_is_passed_over_or_refused_by_name(
    client: FlaskClient, answering: AnsweringWorker, name: str, value: str, status: int, param: str | None
) -> None:
    given = {"Content-Type": "application/json"} | {name: value}
    response = client.post("/v1/embeddings", data=b'{"input": "a"}', headers=given)
    assert response.status_code == status, response.data[:300]
    if status != 200:
        assert error_of(response)["param"] == param


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_an_idempotency_key_that_is_none_is_refused_by_name(client: FlaskClient, key: str) -> None:
    for path in ("/v1/batches", JOBS):
        response = client.post(path, json=ROUTES[path][1], headers={"Idempotency-Key": key})
        assert (response.status_code, error_of(response)["param"]) == (400, "Idempotency-Key")
