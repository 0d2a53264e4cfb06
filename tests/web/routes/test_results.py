"""/v1/embeddings/jobs/ID/results, /errors and /retry, over real storage and a real Redis."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flask.testing import FlaskClient
from redis import Redis

from shared import records
from tests.web.conftest import MakeApp
from tests.web.support import error_of, finish, rows_of, run_shard, vector_of
from web.parts import Parts
from web.results import FORMATS

JOBS = "/v1/embeddings/jobs"
TEXTS = ["one", "two", "three", "four", "five"]


def submit(client: FlaskClient, *lines: Any) -> str:
    body = b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
    response = client.post(JOBS, data=body, content_type="application/x-ndjson")
    assert response.status_code == 202, response.data
    job_id: str = response.json["id"]
    return job_id


def results(client: FlaskClient, job_id: str, query: str = "", **headers: str) -> Any:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(f"{JOBS}/{job_id}/results?{query}", headers=given)


@pytest.fixture
def finished(client: FlaskClient, parts: Parts) -> str:
    """A finished job: five texts with ids, and a bad line in their middle."""
    lines: list[Any] = [{"id": f"ü{n}", "text": text} for n, text in enumerate(TEXTS)]
    job_id = submit(client, *lines[:2], b"{bad", *lines[2:])
    finish(parts.jobs, job_id)
    return job_id


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_download_broken_off_at_any_byte_goes_on_there(client: FlaskClient, finished: str, name: str, dtype: str) -> None:
    whole = results(client, finished, f"format={name}&dtype={dtype}")
    assert (whole.status_code, whole.mimetype) == (200, FORMATS[name].media_type)
    content = whole.data
    for position in range(0, len(content), 1 if len(content) < 1000 else 37):
        rest = results(
            client, finished, f"format={name}&dtype={dtype}", Range=f"bytes={position}-", If_Range=whole.headers["ETag"]
        )
        assert (rest.status_code, rest.data) == (206, content[position:])
        assert rest.headers["x-umekomi-complete"] == "true"


def test_formats_and_types_have_tags_of_their_own(client: FlaskClient, finished: str) -> None:
    queries = [f"format={name}&dtype={dtype}" for name in FORMATS for dtype in ("float32", "float16")]
    queries += ["after=0", "after=1", "limit=2"]
    assert len({results(client, finished, query).headers["ETag"] for query in queries}) == len(queries)
    assert results(client, finished).headers["ETag"] == results(client, finished, "format=jsonl&dtype=float32").headers["ETag"]


def test_a_matrix_has_its_length_and_nan_where_a_row_failed(client: FlaskClient, finished: str) -> None:
    response = results(client, finished, "format=npy")
    assert response.headers["Content-Length"] == str(len(response.data))
    matrix = np.load(io.BytesIO(response.data), allow_pickle=False)
    assert matrix.shape == (6, 8)
    assert np.isnan(matrix).any(axis=1).tolist() == [False, False, True, False, False, False]
    np.testing.assert_array_equal(matrix[5], vector_of("five"))


def test_the_format_follows_the_accept_header(client: FlaskClient, finished: str) -> None:
    for accepted, name in (
        ("application/vnd.apache.arrow.stream", "arrow"),
        ("application/x-npy;q=0, application/x-ndjson", "jsonl"),
        ("application/x-npz", "npz"),
        ("*/*", "jsonl"),
    ):
        response = results(client, finished, Accept=accepted)
        assert response.mimetype == FORMATS[name].media_type
        assert "Accept" in response.headers["Vary"]


def test_head_tells_what_get_would_send(client: FlaskClient, finished: str) -> None:
    whole = results(client, finished, "format=npy")
    head = client.head(f"{JOBS}/{finished}/results?format=npy")
    assert (head.status_code, head.data) == (200, b"")
    for name in ("Content-Length", "ETag", "Accept-Ranges", "x-umekomi-rows", "x-umekomi-complete"):
        assert head.headers[name] == whole.headers[name]


@pytest.mark.parametrize("query", ["format=xlsx", "dtype=float64", "after=-2", "after=x", "limit=0", "limit=-1", "limit=many"])
def test_wrong_parameters_get_400(client: FlaskClient, finished: str, query: str) -> None:
    response = results(client, finished, query)
    assert (response.status_code, error_of(response)["param"]) == (400, query.partition("=")[0])


def test_a_range_behind_the_end_gets_416(client: FlaskClient, finished: str) -> None:
    length = len(results(client, finished).data)
    response = results(client, finished, Range=f"bytes={length}-")
    assert (response.status_code, response.headers["Content-Range"]) == (416, f"bytes */{length}")
    assert error_of(response)["code"] == "range_not_satisfiable"


@pytest.mark.parametrize("name", FORMATS)
def test_a_job_that_runs_is_read_page_by_page(make_app: MakeApp, name: str) -> None:
    app = make_app(max_shard_rows=2)
    client, parts = app.test_client(), app.extensions["umekomi"]
    job_id = submit(client, *({"id": text, "text": text} for text in TEXTS))
    run_shard(parts.jobs, job_id, 0)

    def page(after: str, limit: str = "") -> tuple[int, str, str, bool]:
        response = results(client, job_id, f"format={name}&after={after}&limit={limit}")
        assert response.status_code == 200
        rows = int(response.headers["x-umekomi-rows"])
        assert count(name, response.data) == rows
        headers = response.headers
        return rows, headers["x-umekomi-next-after"], headers["x-umekomi-complete"], "ETag" in headers

    assert page("") == (2, "1", "false", False)
    assert page("", "1") == (1, "0", "false", False)
    assert page("1") == (0, "1", "false", False)
    assert results(client, job_id, f"format={name}", Range="bytes=1-").status_code == 200
    finish(parts.jobs, job_id)
    assert page("1", "2") == (2, "3", "false", True)
    assert page("3") == (1, "4", "true", True)


def count(name: str, content: bytes) -> int:
    """Rows in a file."""
    match name:
        case "jsonl":
            return len(content.splitlines())
        case "parquet":
            return int(pq.read_table(io.BytesIO(content)).num_rows)
        case "arrow":
            return int(pa.ipc.open_stream(content).read_all().num_rows)
        case "npy":
            return len(np.load(io.BytesIO(content), allow_pickle=False))
        case _:
            return len(np.load(io.BytesIO(content), allow_pickle=False)["index"])


# Retry


def spoil(parts: Parts, job_id: str, shard: int, position: int) -> None:
    """Commit a shard of which one row failed."""
    run_shard(parts.jobs, job_id, shard)
    name = f"jobs/{job_id}/output/{shard:05d}.parquet"
    rows = records.read_table(parts.jobs.store.storage.read(name)).to_pylist()
    rows[position] |= {"vector": None, "error": '{"code":"engine_failed","message":"m","param":null}'}
    counts = parts.jobs.store.counts(job_id, shard)
    assert counts is not None
    counts = records.ShardCounts(**{name: getattr(counts, name) for name in counts.__dataclass_fields__} | {"failed": 1})
    table = pa.Table.from_pylist(rows, schema=records.OUTPUT_SCHEMA)
    parts.jobs.store.storage.write(name, records.write_output(table, counts))
    parts.jobs.index.committed(job_id, shard, counts)


def test_a_failed_row_is_retried_and_takes_its_place(client: FlaskClient, parts: Parts) -> None:
    job_id = submit(client, *({"id": text, "text": text, "metadata": {"t": text}} for text in TEXTS))
    spoil(parts, job_id, 0, 1)
    finish(parts.jobs, job_id)
    url = f"{JOBS}/{job_id}"
    before, errors = results(client, job_id), client.get(f"{url}/errors")
    assert [row["id"] for row in rows_of(errors)] == ["two"]

    retried = client.post(f"{url}/retry")
    assert (retried.status_code, retried.json["status"], retried.json["retries"]) == (200, "in_progress", 1)
    assert (retried.json["counts"]["failed"], retried.json["progress"]) == (0, 0.8)
    assert [row["id"] for row in rows_of(results(client, job_id))] == ["one"]
    assert rows_of(client.get(f"{url}/errors")) == []
    again = client.post(f"{url}/retry")
    assert (again.status_code, error_of(again)["code"]) == (400, "invalid_state")

    finish(parts.jobs, job_id)
    assert client.get(url).json["counts"]["completed"] == 5
    after = results(client, job_id)
    rows = rows_of(after)
    assert [(row["index"], row["id"], row["metadata"]) for row in rows] == [(n, t, {"t": t}) for n, t in enumerate(TEXTS)]
    np.testing.assert_array_equal(np.array(rows[1]["embedding"], np.float32), vector_of("two"))
    assert rows_of(client.get(f"{url}/errors")) == []
    assert after.headers["ETag"] != before.headers["ETag"]
    part = results(client, job_id, Range="bytes=5-", If_Range=before.headers["ETag"])
    assert (part.status_code, part.data) == (200, after.data)
    nothing = client.post(f"{url}/retry")
    assert (nothing.status_code, error_of(nothing)["message"]) == (400, "no row of the job failed; there is nothing to retry")


def test_a_line_that_was_no_record_cannot_be_retried(client: FlaskClient, finished: str) -> None:
    response = client.post(f"{JOBS}/{finished}/retry")
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_state")
    assert client.get(f"{JOBS}/{finished}").json["status"] == "completed"


def test_a_retry_while_redis_is_away_is_kept_and_results_follow_storage(
    client: FlaskClient, make_app: MakeApp, parts: Parts, redis: Redis
) -> None:
    job_id = submit(client, {"text": "one"}, {"text": "two"})
    spoil(parts, job_id, 0, 1)
    finish(parts.jobs, job_id)
    offline = make_app(redis_url="redis://127.0.0.1:1/0").test_client()
    assert offline.post(f"{JOBS}/{job_id}/retry").json["retries"] == 1
    # Redis has not heard of it yet.
    assert client.get(f"{JOBS}/{job_id}").json["status"] == "completed"
    assert results(client, job_id).headers["x-umekomi-complete"] == "false"
    assert parts.jobs.store.unannounced() == [job_id]


def test_nobody_else_retries_or_reads_a_job(make_app: MakeApp) -> None:
    client = make_app(api_keys="alice,bob").test_client()
    alice, bob = {"Authorization": "Bearer alice"}, {"Authorization": "Bearer bob"}
    job_id = client.post(JOBS, json={"input": ["a"]}, headers=alice).json["id"]
    for method, rest in (("POST", "retry"), ("GET", "results"), ("HEAD", "results"), ("GET", "errors")):
        assert client.open(f"{JOBS}/{job_id}/{rest}", method=method, headers=bob).status_code == 404
