"""/v1/batches: what is accepted, how a batch is shown on its way, and who may see it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from shared.jobs.finishing import end, fail
from shared.jobs.job import Counts, Done
from shared.records import ShardCounts
from tests.web.routes.test_files import upload
from tests.web.support import error_of
from web.parts import Parts

FIELDS = {
    "id", "object", "endpoint", "model", "errors", "input_file_id", "completion_window", "status", "output_file_id",
    "error_file_id", "created_at", "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at",
    "cancelling_at", "cancelled_at", "request_counts", "usage", "metadata",
}  # fmt: skip


def lines(*ids: str, model: str = "m") -> bytes:
    return b"\n".join(
        orjson.dumps(
            {"custom_id": each, "method": "POST", "url": "/v1/embeddings", "body": {"model": model, "input": f"text {each}"}}
        )
        for each in ids
    )


def submit(client: FlaskClient, content: bytes | None = None, *, headers: Any = None, **fields: Any) -> Any:
    file_id = (
        fields.pop("input_file_id", None)
        or upload(client, lines("a", "b") if content is None else content, headers=headers or {}).json["id"]
    )
    body = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"} | fields
    return client.post("/v1/batches", json={name: value for name, value in body.items() if value != "absent"}, headers=headers)


def get(client: FlaskClient, batch_id: str) -> dict[str, Any]:
    batch: dict[str, Any] = client.get(f"/v1/batches/{batch_id}").json
    assert set(batch) == FIELDS
    return batch


def test_a_new_batch_is_validating_and_has_every_field(client: FlaskClient) -> None:
    answer = submit(client, metadata={"k": "v"})
    assert answer.status_code == 200
    batch = answer.json
    assert set(batch) == FIELDS
    assert batch["id"].startswith("batch_")
    assert (batch["object"], batch["status"], batch["endpoint"], batch["model"]) == ("batch", "validating", "/v1/embeddings", "m")
    assert (batch["completion_window"], batch["metadata"], batch["errors"]) == ("24h", {"k": "v"}, None)
    assert batch["expires_at"] - batch["created_at"] == 86_400
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert get(client, batch["id"]) == batch


@pytest.mark.parametrize("metadata", [None, "absent", {}])
def test_metadata_may_be_null_absent_or_empty(client: FlaskClient, metadata: Any) -> None:
    assert submit(client, metadata=metadata).json["metadata"] == (metadata if metadata != "absent" else None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/chat/completions"}, "endpoint"),
        ({"endpoint": "absent"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": 7}, "input_file_id"),
        ({"metadata": {"k": 1}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {str(number): "v" for number in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after"),
    ],
)
def test_a_wrong_field_is_refused_by_name(client: FlaskClient, fields: dict[str, Any], param: str) -> None:
    answer = submit(client, **fields)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param
    assert client.get("/v1/batches").json["data"] == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]"])
def test_a_body_that_is_no_object_is_refused(client: FlaskClient, body: bytes) -> None:
    answer = client.post("/v1/batches", data=body, content_type="application/json")
    assert answer.status_code == 400
    error_of(answer)


def test_a_file_that_is_not_there_is_not_found(client: FlaskClient) -> None:
    for file_id in ("file-" + "0" * 36, "nonsense", "../x"):
        answer = submit(client, input_file_id=file_id)
        assert answer.status_code == 404
        assert error_of(answer)["param"] == "input_file_id"


def test_an_output_file_is_no_input(client: FlaskClient, parts: Parts) -> None:
    with parts.files.create(owner="public", purpose="batch_output") as made:
        made.write(lines("a"))
    assert error_of(submit(client, input_file_id=made.file.id))["param"] == "input_file_id"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (lines("a", model="gpt-9"), "model_not_found"),
        (b"", "empty_file"),
        (b"\n\n", "empty_file"),
        (b"no json", "invalid_json_line"),
        (orjson.dumps({"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"input": "x"}}), "model_not_found"),
        (lines("a") + b" " * 5000, "file_too_large"),
    ],
)
def test_a_file_of_which_nothing_can_come_is_a_failed_batch_and_no_error(
    make_app: Callable[..., Flask], content: bytes, code: str
) -> None:
    client = make_app(openai_batch_max_bytes=4096).test_client()
    answer = submit(client, content)
    assert answer.status_code == 200
    batch = get(client, answer.json["id"])
    assert batch == answer.json
    assert batch["status"] == "failed"
    assert batch["failed_at"] >= batch["created_at"]
    assert batch["errors"]["object"] == "list"
    assert batch["errors"]["data"][0]["code"] == code
    assert set(batch["errors"]["data"][0]) == {"code", "line", "message", "param"}


def test_a_model_may_be_called_by_its_alias(client: FlaskClient) -> None:
    assert submit(client, lines("a", model="org/m")).json["model"] == "m"


def test_a_batch_goes_through_the_statuses_with_their_times(client: FlaskClient, parts: Parts) -> None:
    batch_id = submit(client).json["id"]
    parts.jobs.store.put_prepared(batch_id, [2, 1], 3)
    parts.jobs.announce(batch_id)
    batch = get(client, batch_id)
    assert (batch["status"], batch["request_counts"]) == ("in_progress", {"total": 3, "completed": 0, "failed": 0})
    assert batch["in_progress_at"] >= batch["created_at"]
    now = time.time()
    counts = ShardCounts(rows=2, failed=1, truncated=0, tokens=5, started_at=now, finished_at=now, requests=2, failed_requests=1)
    parts.jobs.index.committed(batch_id, 0, counts)
    batch = get(client, batch_id)
    assert (batch["status"], batch["request_counts"]) == ("in_progress", {"total": 3, "completed": 1, "failed": 1})
    assert batch["usage"]["total_tokens"] == 5
    parts.jobs.index.committed(
        batch_id, 1, ShardCounts(rows=1, failed=0, truncated=0, tokens=1, started_at=now, finished_at=now, requests=1)
    )
    batch = get(client, batch_id)
    assert (batch["status"], batch["finalizing_at"]) == ("finalizing", int(now))
    done = Done(
        status="completed",
        finished_at=now + 5,
        counts=Counts(total=3, completed=2, failed=1, tokens=6),
        outputs={"output": "file-o", "error": "file-e"},
        finalizing_at=now,
    )
    end(parts.jobs, parts.jobs.view(batch_id), done)
    batch = get(client, batch_id)
    assert (batch["status"], batch["completed_at"], batch["finalizing_at"]) == ("completed", int(now + 5), int(now))
    assert (batch["output_file_id"], batch["error_file_id"]) == ("file-o", "file-e")
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert batch["usage"] == {
        "input_tokens": 6,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 6,
    }
    answer = client.post(f"/v1/batches/{batch_id}/cancel")
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "invalid_state"


def test_a_file_that_was_found_wrong_is_told_line_by_line(client: FlaskClient, parts: Parts) -> None:
    batch_id = submit(client).json["id"]
    wrong = {"code": "duplicate_custom_id", "message": "twice", "line": 2, "param": "custom_id"}
    fail(parts.jobs, parts.jobs.view(batch_id), "twice", [wrong])
    batch = get(client, batch_id)
    assert (batch["status"], batch["errors"]) == ("failed", {"object": "list", "data": [wrong]})


def test_a_cancel_that_says_json_and_sends_nothing_is_understood(client: FlaskClient, parts: Parts) -> None:
    batch_id = submit(client).json["id"]
    answer = client.post(f"/v1/batches/{batch_id}/cancel", content_type="application/json", data=b"")
    assert answer.status_code == 200
    batch = answer.json
    assert (batch["status"], batch["cancelled_at"]) == ("cancelling", None)
    assert batch["cancelling_at"] >= batch["created_at"]
    assert client.post(f"/v1/batches/{batch_id}/cancel").json == batch
    end(parts.jobs, parts.jobs.view(batch_id), Done(status="cancelled", finished_at=time.time(), counts=Counts()))
    batch = get(client, batch_id)
    assert batch["status"] == "cancelled"
    assert batch["cancelled_at"] >= batch["cancelling_at"]
    assert client.post(f"/v1/batches/{batch_id}/cancel").json == batch


def test_a_batch_whose_window_is_over_is_about_to_end(make_app: Callable[..., Flask]) -> None:
    client = make_app(openai_batch_window_s=0.001).test_client()
    batch = submit(client).json
    assert get(client, batch["id"])["status"] == "finalizing"


def test_batches_are_listed_newest_first_and_by_page_and_apart_from_jobs(client: FlaskClient, redis: Redis) -> None:
    client.post("/v1/embeddings/jobs", json={"model": "m", "input": ["x"]})
    ids = [submit(client).json["id"] for _ in range(5)]
    listed = client.get("/v1/batches").json
    assert [batch["id"] for batch in listed["data"]] == ids[::-1]
    assert {"object": "list", "has_more": False, "first_id": ids[4], "last_id": ids[0]}.items() <= listed.items()
    page = client.get(f"/v1/batches?limit=2&after={ids[4]}").json
    assert ([batch["id"] for batch in page["data"]], page["has_more"]) == ([ids[3], ids[2]], True)
    assert client.get("/v1/batches?limit=1&after=").json["has_more"]
    jobs = client.get("/v1/embeddings/jobs").json["data"]
    assert [job["object"] for job in jobs] == ["embedding.job"]
    redis.flushall()  # from storage then
    assert [batch["id"] for batch in client.get("/v1/batches").json["data"]] == ids[::-1]
    assert len(client.get("/v1/embeddings/jobs").json["data"]) == 1


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x"])
def test_a_wrong_page_is_refused(client: FlaskClient, query: str) -> None:
    assert error_of(client.get(f"/v1/batches?{query}"))["param"] == "limit"


def test_neither_route_shows_the_others(client: FlaskClient) -> None:
    batch_id = submit(client).json["id"]
    job_id = client.post("/v1/embeddings/jobs", json={"model": "m", "input": ["x"]}).json["id"]
    for path in (f"/v1/embeddings/jobs/{batch_id}", f"/v1/batches/{job_id}", "/v1/batches/batch_x", "/v1/batches/..%2fx"):
        answer = client.get(path)
        assert answer.status_code == 404
        error_of(answer)
    assert client.delete(f"/v1/embeddings/jobs/{batch_id}").status_code == 404


def test_a_batch_belongs_to_the_key_that_made_it(make_app: Callable[..., Flask]) -> None:
    client = make_app(api_keys="mine,yours").test_client()
    mine, yours = {"Authorization": "Bearer mine"}, {"Authorization": "Bearer yours"}
    batch = submit(client, headers=mine).json
    assert client.get(f"/v1/batches/{batch['id']}", headers=mine).status_code == 200
    assert client.get(f"/v1/batches/{batch['id']}", headers=yours).status_code == 404
    assert client.post(f"/v1/batches/{batch['id']}/cancel", headers=yours).status_code == 404
    assert client.get("/v1/batches", headers=yours).json["data"] == []
    assert submit(client, headers=yours, input_file_id=batch["input_file_id"]).status_code == 404


def test_an_idempotency_key_gives_the_same_batch_again(client: FlaskClient) -> None:
    file_id = upload(client, lines("a")).json["id"]
    key = {"Idempotency-Key": "k"}
    first = submit(client, input_file_id=file_id, headers=key).json
    assert submit(client, input_file_id=file_id, headers=key).json == first
    other = submit(client, input_file_id=file_id, headers=key, metadata={"k": "v"})
    assert error_of(other)["code"] == "idempotency_key_reused"
    assert len(client.get("/v1/batches").json["data"]) == 1
    job = client.post("/v1/embeddings/jobs", json={"model": "m", "input": ["x"]}, headers=key)
    assert job.status_code == 202


def test_a_failed_creation_is_the_same_again_with_its_key(client: FlaskClient) -> None:
    file_id = upload(client, b"no json").json["id"]
    key = {"Idempotency-Key": "k"}
    first = submit(client, input_file_id=file_id, headers=key).json
    assert first["status"] == "failed"
    assert submit(client, input_file_id=file_id, headers=key).json == first


def test_a_batch_is_accepted_and_shown_while_redis_is_away(make_app: Callable[..., Flask]) -> None:
    client = make_app(redis_url="redis://127.0.0.1:1/0").test_client()
    batch = submit(client).json
    assert get(client, batch["id"])["status"] == "validating"
    assert client.post(f"/v1/batches/{batch['id']}/cancel").json["status"] == "cancelling"
