"""/v1/embeddings/jobs, from submission to deletion, over real storage and a real Redis."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from flask.testing import FlaskClient
from redis import Redis

from shared.presence import PresenceBoard
from tests.web.conftest import MakeApp
from tests.web.support import embed, error_of, finish, model, presence, registry, rows_of, run_shard, vector_of, worker
from web.parts import EXTENSION, Parts

JOBS = "/v1/embeddings/jobs"
NDJSON = "application/x-ndjson"


def submit(client: FlaskClient, *lines: Any, query: str = "", kind: str = NDJSON, **kwargs: Any) -> Any:
    body = b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
    return client.post(f"{JOBS}?{query}", data=body, content_type=kind, **kwargs)


def stored(parts: Parts) -> list[str]:
    """Everything that lies in storage, but for what is being written."""
    root = Path(parts.settings.storage)
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]


def results(client: FlaskClient, job_id: str, query: str = "") -> list[dict[str, Any]]:
    response = client.get(f"{JOBS}/{job_id}/results?{query}")
    assert response.status_code == 200, response.data
    return rows_of(response)


def test_a_job_goes_from_ndjson_to_results_in_order(client: FlaskClient, parts: Parts) -> None:
    accepted = submit(
        client, {"id": "a", "text": "one", "metadata": {"k": [1, "ü"]}}, {"id": 7, "text": "two"}, {"text": "three"}
    )
    assert accepted.status_code == 202
    job = accepted.json
    assert accepted.headers["Location"] == f"{JOBS}/{job['id']}"
    assert (job["object"], job["status"], job["model"]) == ("embedding.job", "queued", "m")
    finish(parts.jobs, job["id"])
    done = client.get(accepted.headers["Location"]).json
    assert (done["status"], done["progress"], done["counts"]["completed"]) == ("completed", 1.0, 3)
    assert all(isinstance(done[name], int) for name in ("created_at", "started_at", "finished_at"))
    rows = results(client, job["id"])
    assert [(row["id"], row["index"]) for row in rows] == [("a", 0), ("7", 1), (None, 2)]
    assert rows[0]["metadata"] == {"k": [1, "ü"]}
    assert "metadata" not in rows[1]
    np.testing.assert_array_equal(np.array(rows[2]["embedding"], np.float32), vector_of("three"))


def test_a_json_list_takes_texts_and_objects(client: FlaskClient, parts: Parts) -> None:
    response = embed(client, {"model": "org/m", "input": ["one", {"id": "x", "text": "two"}, 3], "metadata": {"run": "9"}}, JOBS)
    assert response.status_code == 202
    assert (response.json["model"], response.json["metadata"]) == ("m", {"run": "9"})
    finish(parts.jobs, response.json["id"])
    rows = results(client, response.json["id"])
    assert [row["id"] for row in rows] == [None, "x", None]
    assert rows[2]["error"]["code"] == "invalid_type"


BAD_LINES: list[tuple[str, bytes, str]] = [
    ("not JSON", b"{oops", "invalid_json_line"),
    ("a list", b"[1]", "invalid_json_line"),
    ("a bare text", b'"text"', "invalid_json_line"),
    ("invalid UTF-8", b'{"text": "\xff"}', "invalid_json_line"),
    ("a lone surrogate", b'{"text": "\\udc00"}', "invalid_json_line"),
    ("NaN", b'{"text": "a", "id": NaN}', "invalid_json_line"),
    ("a depth bomb", b'{"metadata": ' + b'{"a":' * 3000 + b"1" + b"}" * 3001, "invalid_json_line"),
    ("metadata too deep to write", b'{"text":"a","metadata":' + b'{"a":' * 500 + b"1" + b"}" * 501, "invalid_value"),
    ("no text", b'{"id": "1"}', "missing_required_parameter"),
    ("a number for a text", b'{"text": 5}', "invalid_type"),
    ("an empty text", b'{"text": ""}', "invalid_value"),
    ("a text too long", b'{"text": "' + b"x" * 1025 + b'"}', "text_too_long"),
    ("a line far too long", b'{"text": "' + b"x" * 200_000 + b'"}', "text_too_long"),
    ("an id of another type", b'{"text": "a", "id": 1.5}', "invalid_type"),
    ("a bool for an id", b'{"text": "a", "id": true}', "invalid_type"),
    ("an id too long", b'{"text": "a", "id": "' + b"i" * 513 + b'"}', "invalid_value"),
    ("metadata a list", b'{"text": "a", "metadata": []}', "invalid_type"),
    ("metadata too large", b'{"text": "a", "metadata": {"a": "' + b"m" * 17_000 + b'"}}', "invalid_value"),
]


@pytest.mark.parametrize(("line", "code"), [pytest.param(line, code, id=name) for name, line, code in BAD_LINES])
def test_a_bad_line_becomes_an_error_row_and_the_rest_completes(
    client: FlaskClient, parts: Parts, line: bytes, code: str
) -> None:
    accepted = submit(client, {"text": "before"}, b"", b"  \r", line, {"text": "after"})
    assert accepted.status_code == 202
    job_id = accepted.json["id"]
    finish(parts.jobs, job_id)
    before, bad, after = results(client, job_id)
    assert ("embedding" in before, "embedding" in after) == (True, True)
    assert (bad["index"], bad["line"], bad["error"]["code"]) == (1, 4, code)
    assert set(bad["error"]) == {"code", "message", "param"}
    assert client.get(f"{JOBS}/{job_id}").json["counts"]["failed"] == 1
    assert rows_of(client.get(f"{JOBS}/{job_id}/errors")) == [bad]


REFUSED: list[tuple[str, dict[str, Any], int, str | None]] = [
    ("nothing", {"data": b""}, 400, "input"),
    ("blank lines alone", {"data": b"\n\n  \n"}, 400, "input"),
    ("another type", {"data": b"a", "content_type": "text/html"}, 415, "Content-Type"),
    ("a broken form", {"data": b"a", "content_type": "multipart/form-data; boundary=x"}, 400, None),
    ("an unknown model", {"data": b'{"text":"a"}', "query_string": "model=x"}, 404, "model"),
    ("dimensions a word", {"data": b'{"text":"a"}', "query_string": "dimensions=many"}, 400, "dimensions"),
    ("dimensions zero", {"data": b'{"text":"a"}', "query_string": "dimensions=0"}, 400, "dimensions"),
    ("an unknown priority", {"data": b'{"text":"a"}', "query_string": "priority=urgent"}, 400, "priority"),
    ("an unknown input type", {"data": b'{"text":"a"}', "query_string": "input_type=x"}, 400, "input_type"),
    ("metadata not JSON", {"data": b'{"text":"a"}', "query_string": "metadata=x"}, 400, "metadata"),
    ("metadata a list", {"data": b'{"text":"a"}', "query_string": "metadata=[]"}, 400, "metadata"),
    ("metadata of numbers", {"data": b'{"text":"a"}', "query_string": 'metadata={"a":1}'}, 400, "metadata"),
    ("a key too long", {"data": b'{"text":"a"}', "headers": {"Idempotency-Key": "k" * 256}}, 400, "Idempotency-Key"),
    ("an empty key", {"data": b'{"text":"a"}', "headers": {"Idempotency-Key": ""}}, 400, "Idempotency-Key"),
    ("half a JSON body", {"data": b'{"input": [', "content_type": "application/json"}, 400, None),
    ("JSON without input", {"data": b"{}", "content_type": "application/json"}, 400, "input"),
    ("JSON with no inputs", {"data": b'{"input": []}', "content_type": "application/json"}, 400, "input"),
    ("JSON with an object", {"data": b'{"input": {}}', "content_type": "application/json"}, 400, "input"),
    ("JSON with token ids", {"data": b'{"input": [1, 2]}', "content_type": "application/json"}, 400, "input"),
    ("JSON metadata", {"data": b'{"input": ["a"], "metadata": "x"}', "content_type": "application/json"}, 400, "metadata"),
    ("not gzip", {"data": b'{"text":"a"}', "headers": {"Content-Encoding": "gzip"}}, 400, "Content-Encoding"),
]


@pytest.mark.parametrize(
    ("sent", "status", "param"), [pytest.param(sent, status, param, id=name) for name, sent, status, param in REFUSED]
)
def test_a_wrong_submission_is_refused_and_stores_nothing(
    client: FlaskClient, parts: Parts, sent: dict[str, Any], status: int, param: str | None
) -> None:
    response = client.post(JOBS, **({"content_type": NDJSON} | sent))
    assert (response.status_code, error_of(response)["param"]) == (status, param)
    assert stored(parts) == []


def test_what_only_the_loaded_model_knows_is_checked_before_anything_is_stored(
    client: FlaskClient, parts: Parts, redis: Redis
) -> None:
    PresenceBoard(redis).announce(worker({"m": presence(prompts=("query",))}))
    assert error_of(submit(client, {"text": "a"}, query="dimensions=9"))["param"] == "dimensions"
    assert error_of(submit(client, {"text": "a"}, query="prompt_name=x"))["param"] == "prompt_name"
    assert stored(parts) == []
    assert submit(client, {"text": "a"}, query="dimensions=8&prompt_name=query&priority=high").status_code == 202


class BreaksOff(io.BytesIO):
    """A body whose client hangs up in the middle."""

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(50_000)
        if not found:
            raise ConnectionResetError
        return found


def test_an_upload_that_breaks_off_leaves_nothing_behind(make_app: MakeApp) -> None:
    app = make_app(shard_seconds=1)
    body = BreaksOff(b'{"text": "a short text"}\n' * 10_000)
    response = app.test_client().post(
        JOBS, content_type=NDJSON, environ_overrides={"wsgi.input": body, "wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
    )
    assert (response.status_code, error_of(response)["code"]) == (400, "incomplete_body")
    assert stored(app.extensions[EXTENSION]) == []


def test_a_body_shorter_than_announced_is_no_job(client: FlaskClient, parts: Parts) -> None:
    body = io.BytesIO(b'{"text": "a"}\n')
    response = client.post(
        JOBS, content_type=NDJSON, environ_overrides={"wsgi.input": body, "wsgi.input_terminated": True, "CONTENT_LENGTH": "99"}
    )
    assert (response.status_code, error_of(response)["code"]) == (400, "incomplete_body")
    assert stored(parts) == []


def test_an_upload_over_the_limit_is_refused_while_it_is_read_packed_or_not(make_app: MakeApp) -> None:
    app = make_app(max_upload_bytes=2**20, shard_seconds=1)
    lines = b'{"text": "a short text"}\n' * 60_000
    plain = app.test_client().post(JOBS, data=lines, content_type=NDJSON)
    packed = app.test_client().post(JOBS, data=gzip.compress(lines), content_type=NDJSON, headers={"Content-Encoding": "gzip"})
    assert (plain.status_code, packed.status_code) == (413, 413)
    assert error_of(packed)["code"] == "request_too_large"
    assert stored(app.extensions[EXTENSION]) == []


def test_a_gzipped_upload_is_read(client: FlaskClient) -> None:
    body = gzip.compress(b'{"text": "a"}\n') + gzip.compress(b'{"text": "b"}\n')
    response = client.post(JOBS, data=body, content_type=NDJSON, headers={"Content-Encoding": "gzip"})
    assert response.json["counts"]["total"] == 2


def test_the_same_key_and_body_give_the_same_job_and_another_body_is_refused(client: FlaskClient, parts: Parts) -> None:
    key = {"Idempotency-Key": "a/../b c"}
    first = submit(client, {"text": "a"}, headers=key)
    again = submit(client, {"text": "a"}, headers=key)
    assert (again.status_code, again.json["id"]) == (202, first.json["id"])
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    for other in (submit(client, {"text": "b"}, headers=key), submit(client, {"text": "a"}, headers=key, query="dimensions=2")):
        assert (other.status_code, error_of(other)["code"]) == (400, "idempotency_key_reused")
    assert len(parts.jobs.store.ids()) == 1


def test_a_job_is_accepted_while_redis_is_away_and_its_results_are_read(make_app: MakeApp, parts: Parts) -> None:
    offline = make_app(redis_url="redis://127.0.0.1:1/0").test_client()
    accepted = submit(offline, {"text": "a"})
    assert accepted.status_code == 202
    assert offline.get(f"{JOBS}/{accepted.json['id']}").json["status"] == "queued"
    listing = offline.get(JOBS)
    assert (listing.status_code, error_of(listing)["code"]) == (503, "redis_unavailable")
    finish(parts.jobs, accepted.json["id"])
    assert len(results(offline, accepted.json["id"])) == 1


@pytest.fixture
def sharded(make_app: MakeApp) -> tuple[FlaskClient, Parts, str]:
    """A job of 10 rows in shards of 3."""
    app = make_app(max_shard_rows=3, storage_url=None)
    client = app.test_client()
    job = submit(client, *({"id": str(number), "text": f"text {number}"} for number in range(9)), b"bad").json
    return client, app.extensions[EXTENSION], job["id"]


def test_committed_rows_are_read_while_the_job_runs_and_from_where_one_stopped(sharded: tuple[FlaskClient, Parts, str]) -> None:
    client, parts, job_id = sharded
    for shard in (0, 1, 3):
        run_shard(parts.jobs, job_id, shard)
    response = client.get(f"{JOBS}/{job_id}/results")
    assert [row["index"] for row in rows_of(response)] == [0, 1, 2, 3, 4, 5]  # shard 2 is missing: the prefix ends there
    assert (response.headers["x-umekomi-rows"], response.headers["x-umekomi-next-after"]) == ("6", "5")
    assert response.headers["x-umekomi-complete"] == "false"
    assert client.get(f"{JOBS}/{job_id}").json["status"] == "in_progress"
    assert [row["index"] for row in results(client, job_id, "after=3")] == [4, 5]
    empty = client.get(f"{JOBS}/{job_id}/results?after=5")
    assert (empty.data, empty.headers["x-umekomi-next-after"]) == (b"", "5")
    finish(parts.jobs, job_id)
    rest = client.get(f"{JOBS}/{job_id}/results?after=5")
    assert [row["index"] for row in rows_of(rest)] == [6, 7, 8, 9]
    assert rest.headers["x-umekomi-complete"] == "true"


def test_parquet_and_jsonl_hold_the_same_rows(sharded: tuple[FlaskClient, Parts, str]) -> None:
    client, parts, job_id = sharded
    finish(parts.jobs, job_id)
    lines = results(client, job_id)
    response = client.get(f"{JOBS}/{job_id}/results?after=1", headers={"Accept": "application/vnd.apache.parquet"})
    assert response.headers["Content-Disposition"] == f'attachment; filename="{job_id}-results.parquet"'
    table = pq.read_table(io.BytesIO(response.data)).to_pylist()
    assert [row["index"] for row in table] == list(range(2, 10))
    for row, line in zip(table[:-1], lines[2:-1], strict=True):
        assert (row["id"], row["tokens"], row["error"]) == (line["id"], line["tokens"], None)
        np.testing.assert_array_equal(np.array(row["embedding"], np.float32), np.array(line["embedding"], np.float32))
    assert table[-1]["embedding"] is None
    assert orjson.loads(table[-1]["error"]) == lines[-1]["error"]


def test_a_parquet_file_of_no_rows_is_valid(sharded: tuple[FlaskClient, Parts, str]) -> None:
    client, _, job_id = sharded
    assert pq.read_table(io.BytesIO(client.get(f"{JOBS}/{job_id}/results?format=parquet").data)).num_rows == 0


def test_a_damaged_output_is_no_broken_download(sharded: tuple[FlaskClient, Parts, str]) -> None:
    client, parts, job_id = sharded
    run_shard(parts.jobs, job_id, 0)
    parts.jobs.store.storage.write(f"jobs/{job_id}/output/00000.parquet", b"PAR1 cut")
    response = client.get(f"{JOBS}/{job_id}/results")
    assert (response.status_code, error_of(response)["code"]) == (503, "storage_unavailable")


@pytest.mark.parametrize("query", ["format=csv", "after=x", "after=-5", "after=1e3"])
def test_wrong_result_parameters_get_400(sharded: tuple[FlaskClient, Parts, str], query: str) -> None:
    client, _, job_id = sharded
    response = client.get(f"{JOBS}/{job_id}/results?{query}")
    assert (response.status_code, error_of(response)["param"]) == (400, query.partition("=")[0])


def test_jobs_are_paused_resumed_and_cancelled_with_an_empty_body(client: FlaskClient, parts: Parts) -> None:
    url = f"{JOBS}/{submit(client, {'text': 'a'}).json['id']}"
    assert client.post(f"{url}/pause").json["status"] == "paused"
    assert client.get(url).json["status"] == "paused"
    assert client.post(f"{url}/resume", content_type="application/json").json["status"] == "queued"
    assert client.post(f"{url}/cancel").json["status"] == "cancelled"
    assert client.post(f"{url}/cancel/").json["status"] == "cancelled"
    response = client.post(f"{url}/pause")
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_state")


@pytest.mark.parametrize("name", ["dedupe", "cache"])
def test_a_job_says_whether_vectors_are_used_again(client: FlaskClient, parts: Parts, name: str) -> None:
    for given, expected in (("true", True), ("false", False), ("", False)):
        job = submit(client, {"text": "a"}, query=f"{name}={given}").json
        assert job[name] is expected
        assert getattr(parts.jobs.store.get(job["id"]), name) is expected
    assert client.post(JOBS, json={"input": ["a"], name: True}).json[name] is True
    for refused in (submit(client, {"text": "a"}, query=f"{name}=1"), client.post(JOBS, json={"input": ["a"], name: 1})):
        assert (refused.status_code, error_of(refused)["param"]) == (400, name)


def test_a_finished_job_cannot_be_cancelled(client: FlaskClient, parts: Parts) -> None:
    job_id = submit(client, {"text": "a"}).json["id"]
    finish(parts.jobs, job_id)
    assert client.post(f"{JOBS}/{job_id}/cancel").status_code == 400


def test_a_deleted_job_is_gone_with_its_files(client: FlaskClient, parts: Parts) -> None:
    job_id = submit(client, {"text": "a"}, headers={"Idempotency-Key": "k"}).json["id"]
    assert client.delete(f"{JOBS}/{job_id}").json == {"id": job_id, "object": "embedding.job", "deleted": True}
    assert client.get(f"{JOBS}/{job_id}").status_code == 404
    assert client.get(JOBS).json["data"] == []
    assert stored(parts) == []


@pytest.mark.parametrize("job_id", ["job_" + "0" * 36, "job_1", "..", "job_" + "A" * 36, "job_" + "0" * 36 + "x", "%2e%2e%2fx"])
@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("GET", "/results"), ("POST", "/cancel"), ("DELETE", "")])
def test_an_unknown_or_malformed_id_gets_404(client: FlaskClient, job_id: str, method: str, rest: str) -> None:
    response = client.open(f"{JOBS}/{job_id}{rest}", method=method)
    assert response.status_code in (404, 405)
    assert error_of(response)["code"] in ("not_found", "method_not_allowed")


def test_jobs_are_listed_newest_first_page_by_page_and_by_status(client: FlaskClient) -> None:
    ids = [submit(client, {"text": str(number)}).json["id"] for number in range(5)]
    client.post(f"{JOBS}/{ids[1]}/cancel")
    first = client.get(f"{JOBS}?limit=2").json
    assert [job["id"] for job in first["data"]] == [ids[4], ids[3]]
    assert (first["object"], first["first_id"], first["last_id"], first["has_more"]) == ("list", ids[4], ids[3], True)
    rest = client.get(f"{JOBS}/?limit=3&after={first['last_id']}").json
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == ([ids[2], ids[1], ids[0]], False)
    assert [job["id"] for job in client.get(f"{JOBS}?status=cancelled").json["data"]] == [ids[1]]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "status=done"])
def test_wrong_list_parameters_get_400(client: FlaskClient, query: str) -> None:
    response = client.get(f"{JOBS}?{query}")
    assert (response.status_code, error_of(response)["param"]) == (400, query.partition("=")[0])


def test_jobs_belong_to_the_key_that_made_them(make_app: MakeApp) -> None:
    client = make_app(api_keys="alice,bob").test_client()
    alice, bob = {"Authorization": "Bearer alice"}, {"x-api-key": "bob"}
    job_id = submit(client, {"text": "a"}, headers=alice).json["id"]
    assert client.get(f"{JOBS}/{job_id}", headers=alice).status_code == 200
    for method, rest in (("GET", ""), ("GET", "/results"), ("GET", "/errors"), ("POST", "/cancel"), ("DELETE", "")):
        response = client.open(f"{JOBS}/{job_id}{rest}", method=method, headers=bob)
        assert (response.status_code, error_of(response)["code"]) == (404, "not_found")
    assert client.get(JOBS, headers=bob).json["data"] == []
    assert client.get(JOBS).status_code == 401


def test_shards_are_sized_by_what_the_workers_measured(make_app: MakeApp, redis: Redis) -> None:
    PresenceBoard(redis).announce(worker({"m": presence(tokens_per_s=1000.0)}))
    app = make_app(shard_seconds=1.0, models=registry(model("m")))
    job_id = submit(app.test_client(), *({"text": "x" * 392} for _ in range(60))).json["id"]  # 100 tokens each
    shards = app.extensions[EXTENSION].jobs.store.get(job_id).shards
    assert shards == (3, 5, 10, 10, 10, 10, 10, 2)
