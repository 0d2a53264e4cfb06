"""Quotas: unfinished jobs, stored bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient

from shared.errors import QuotaExceeded, RateLimited
from tests.support.valkey import Valkey
from tests.web.conftest import MakeApp
from tests.web.support import embed, error_of, finish
from web.auth import Allowance, Caller
from web.parts import EXTENSION, Parts

JOBS = "/v1/embeddings/jobs"


def parts_of(app: Flask) -> Parts:
    found: Parts = app.extensions[EXTENSION]
    return found


def upload(client: FlaskClient, content: bytes) -> Any:
    return client.post("/v1/files", data={"purpose": "batch", "file": (io.BytesIO(content), "a.jsonl")})


def submit(client: FlaskClient, **headers: str) -> Any:
    return embed(client, {"input": ["text"]}, JOBS, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_unfinished_jobs_are_counted_and_a_finished_one_makes_room(make_app: MakeApp) -> None:
    app = make_app(limit_jobs=2)
    client = app.test_client()
    first = submit(client, Idempotency_Key="a")
    assert [first.status_code, submit(client).status_code] == [202, 202]

    refused = submit(client)
    error = error_of(refused)
    assert (refused.status_code, error["code"], error["type"]) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert int(refused.headers["Retry-After"]) > 0
    # Who asks for the same job again gets it, whatever the limit says.
    assert submit(client, Idempotency_Key="a").json["id"] == first.json["id"]

    finish(parts_of(app).jobs, first.json["id"])
    assert submit(client).status_code == 202


def test_a_batch_counts_as_a_job(make_app: MakeApp) -> None:
    client = make_app(limit_jobs=1).test_client()
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "x"}}
    file = upload(client, orjson.dumps(line)).json["id"]
    body = {"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h"}

    assert embed(client, body, "/v1/batches").status_code == 200
    assert embed(client, body, "/v1/batches").status_code == 429
    assert submit(client).status_code == 429


def test_submissions_at_once_do_not_pass_the_limit_together(app: Flask) -> None:
    quotas, caller = parts_of(app).quotas, Caller("alice", "embed", Allowance(jobs=1))
    with quotas.place_for_job(caller):
        with pytest.raises(RateLimited), quotas.place_for_job(caller):
            pass
        with quotas.place_for_job(Caller("bob", "embed", Allowance(jobs=1))):
            pass
    with quotas.place_for_job(caller):  # nothing came of the first one
        pass


@pytest.mark.parametrize(
    ("send", "delete"),
    [
        (lambda client: upload(client, b"x" * 600), "/v1/files/"),
        (lambda client: client.post(JOBS, data=b'"' + b"x" * 600 + b'"', content_type="application/x-ndjson"), f"{JOBS}/"),
    ],
    ids=["files", "jobs"],
)
def test_what_is_stored_is_bounded_and_what_is_deleted_makes_room(
    make_app: MakeApp, send: Callable[[FlaskClient], Any], delete: str
) -> None:
    app = make_app(limit_stored_bytes=1000)
    client = app.test_client()
    first = send(client)
    assert first.status_code in (200, 202), first.data

    refused = send(client)
    error = error_of(refused)
    assert (refused.status_code, error["code"], error["type"]) == (403, "insufficient_quota", "insufficient_quota")
    assert error["param"] in ("file", "input")
    assert parts_of(app).quotas.stored_bytes("public") in (600, 602)

    assert client.delete(delete + first.json["id"]).status_code == 200
    assert send(client).status_code in (200, 202)


def test_uploads_at_once_are_not_over_the_limit_together(make_app: MakeApp) -> None:
    quotas = parts_of(make_app()).quotas
    caller = Caller("alice", "embed", Allowance(stored_bytes=1000))
    uploads = [quotas.bounded(caller, iter([b"x" * 300, b"x" * 300]), "file") for _ in range(2)]
    assert [len(next(upload)) for upload in uploads] == [300, 300]
    assert len(next(uploads[0])) == 300
    with pytest.raises(QuotaExceeded):
        next(uploads[1])

    begun = quotas.bounded(caller, iter([b"x" * 900]), "file")
    assert len(next(begun)) == 900
    begun.close()  # type: ignore[attr-defined]
    assert len(b"".join(quotas.bounded(caller, iter([b"x" * 900]), "file"))) == 900


def test_a_refused_upload_leaves_nothing_behind(make_app: MakeApp) -> None:
    app = make_app(limit_stored_bytes=1000)
    client = app.test_client()
    assert upload(client, b"x" * 5000).status_code == 403
    assert client.get("/v1/files").json["data"] == []
    assert upload(client, b"x" * 900).status_code == 200
    assert upload(client, b"").status_code == 200


def test_with_redis_away_submissions_go_on(make_app: MakeApp, tmp_path: Any) -> None:
    server = Valkey(tmp_path / "valkey")
    (tmp_path / "valkey").mkdir()
    server.start()
    app = make_app(limit_jobs=1, limit_stored_bytes=10, redis_url=server.url)
    server.kill()

    assert [submit(app.test_client()).status_code for _ in range(2)] == [202, 202]
