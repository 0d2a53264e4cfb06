"""Every header that is read, with values that nobody should send: an answer of ours, never a failure of ours."""

from __future__ import annotations

import io

import orjson
import pytest
from flask.testing import FlaskClient

from tests.web.conftest import MakeApp
from tests.web.support import AnsweringWorker, error_of

EMBEDDINGS, JOBS, FILES = "/v1/embeddings", "/v1/embeddings/jobs", "/v1/files"
BODY = orjson.dumps({"input": ["text"]})
ODD = ("", " ", ",", ";", "\x00", "\x7f", "é", "\xff" * 10, '"', "=" * 50, "a" * 5000, "-1", "9" * 400, "null", "%00", "<script>")

# header, values beyond the odd ones, path, statuses that it may end in
TABLE: list[tuple[str, tuple[str, ...], str, set[int]]] = [
    ("Authorization", ("Bearer", "Basic a2V5", "Bearer a b", "bearer"), EMBEDDINGS, {401}),
    ("x-api-key", ("None", "key,key"), EMBEDDINGS, {401}),
    (
        "Content-Type",
        ("text/html", "application/json; charset=\xff", "/", "multipart/form-data", "image/png"),
        EMBEDDINGS,
        {200, 415},
    ),
    ("Content-Type", ("text/html", "text/plain; charset=utf-16", "multipart/form-data; boundary="), JOBS, {202, 400, 415}),
    ("Content-Encoding", ("br", "gzip, gzip", "GZIP!", "zip"), EMBEDDINGS, {200, 415}),
    ("Content-Encoding", ("gzip", "zstd", "deflate"), EMBEDDINGS, {200, 400, 415}),
    ("Idempotency-Key", ("a" * 256,), JOBS, {202, 400}),
    ("X-Request-Id", ("a b", "a\tb"), EMBEDDINGS, {200}),
    ("Accept", ("*/*", "image/png", "*/*;q=0", "application/json;q=x"), EMBEDDINGS, {200}),
    ("Accept-Encoding", ("gzip;q=nan", "br"), EMBEDDINGS, {200}),
    ("Prefer", ("respond-async; wait=x", "wait=-1"), EMBEDDINGS, {200, 202}),
    ("Origin", ("null", "https://evil"), EMBEDDINGS, {200}),
    ("Host", ("a b", "[::", "x:99999999"), EMBEDDINGS, {200, 400}),
    ("X-Forwarded-For", ("1.2.3.4, x",), EMBEDDINGS, {200}),
    ("X-HTTP-Method-Override", ("DELETE",), EMBEDDINGS, {200}),
    ("Cookie", ("a=b; c", "=" * 4000), EMBEDDINGS, {200}),
    ("Content-Disposition", ("attachment",), EMBEDDINGS, {200}),
]
CASES = [(name, value, path, statuses) for name, values, path, statuses in TABLE for value in (*values, *ODD)]


@pytest.fixture
def client(make_app: MakeApp, answering: AnsweringWorker) -> FlaskClient:
    return make_app(cors=True, cors_allow_origins="https://app.example.com").test_client()


@pytest.fixture
def guarded(make_app: MakeApp) -> FlaskClient:
    return make_app(api_keys="the-key").test_client()


def test_a_wrong_header_is_passed_over_or_named(client: FlaskClient, guarded: FlaskClient) -> None:
    for name, value, path, statuses in CASES:
        asked = guarded if statuses == {401} else client
        headers = {"Content-Type": "application/json", name: value}
        if name == "Idempotency-Key" and value.strip() and len(value) <= 255:
            headers[name] = f"{value} {path}"[:255]
        response = asked.post(path, data=BODY, headers=headers)
        if name == "Content-Encoding" and value in ODD and value.strip():
            assert response.status_code == 415, (name, value, response.data)
        assert response.status_code in statuses, (name, value, response.status_code, response.data)
        if name == "Content-Encoding" and value in ("gzip", "zstd", "deflate"):
            assert response.status_code == 400, (name, value)
        assert "\n" not in response.headers["x-request-id"]
        if response.status_code >= 400:
            error = error_of(response)
            assert value not in error["message"] or len(value) < 50, (name, value)
        response.close()


@pytest.fixture
def file(client: FlaskClient) -> str:
    response = client.post(FILES, data={"purpose": "batch", "file": (io.BytesIO(b"0123456789"), "a")})
    return f"{FILES}/{response.json['id']}/content"


RANGES = {
    "bytes=0-4": 206,
    "bytes=-3": 206,
    "bytes=-11": 206,
    "bytes=-0": 200,
    "bytes=5-": 206,
    "bytes=9-99": 206,
    "bytes=10-": 416,
    "bytes=99-100": 416,
    "bytes=4-2": 200,
    "bytes=0-1,3-4": 200,
    "bytes=a-b": 200,
    "bytes=-": 200,
    "bytes=" + "9" * 400 + "-": 416,
    "lines=0-4": 200,
    "bytes": 200,
    "bytes=0-4" * 100: 200,
}


def test_a_wrong_range_is_the_whole_file_or_named(client: FlaskClient, file: str) -> None:
    for value, status in RANGES.items():
        response = client.get(file, headers={"Range": value})
        assert response.status_code == status, (value, response.status_code)
        if status == 416:
            assert error_of(response)["param"] == "Range"
        elif status == 200:
            assert response.data == b"0123456789"
        response.close()
    for value in ODD:
        assert client.get(file, headers={"Range": value}).status_code in (200, 416), value


@pytest.mark.parametrize("name", ["If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"])
def test_a_wrong_condition_gives_the_whole_file(client: FlaskClient, file: str, name: str) -> None:
    for value in (*ODD, "W/", '"x', "yesterday", "Thu, 99 Foo 2026 25:61:61 GMT"):
        response = client.get(file, headers={"Range": "bytes=0-4", name: value})
        assert response.status_code in (200, 206), (name, value)
        if name == "If-Range" and value.strip():
            assert response.data == b"0123456789", value
        response.close()


def test_a_wrong_place_in_a_stream_of_events_is_the_present(client: FlaskClient) -> None:
    job = client.post(JOBS, data=BODY, content_type="application/json").json["id"]
    client.post(f"{JOBS}/{job}/cancel").close()
    for value in ODD:
        response = client.get(f"{JOBS}/{job}/events", headers={"Last-Event-ID": value})
        assert response.status_code == 200
        response.close()


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "PROPFIND", "get", "FOO"])
def test_a_method_that_there_is_not_is_told(client: FlaskClient, method: str) -> None:
    response = client.open(EMBEDDINGS, method=method)
    assert response.status_code == 405
    assert "POST" in response.headers["Allow"]
    error_of(response)
