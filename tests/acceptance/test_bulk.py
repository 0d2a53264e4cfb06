"""Jobs: submitted over HTTP, run by real Celery workers, read back from storage; whatever is killed meanwhile."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq

from tests.acceptance.conftest import Encode
from tests.support.service import Service
from tests.support.texts import cosines, some_texts


def submit(service: Service, lines: list[str], **options: Any) -> dict[str, Any]:
    """POST NDJSON; the job."""
    answer = httpx.post(
        f"{service.url}/v1/embeddings/jobs",
        params={"model": "all-MiniLM-L6-v2"} | options.pop("params", {}),
        content="\n".join(lines).encode(),
        headers={"content-type": "application/x-ndjson"} | options.pop("headers", {}),
        timeout=60,
    )
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"].endswith(job["id"])
    return job


def get(service: Service, job_id: str) -> dict[str, Any]:
    """The job as it stands."""
    job: dict[str, Any] = httpx.get(f"{service.url}/v1/embeddings/jobs/{job_id}", timeout=30).json()
    return job


def wait_finished(service: Service, job_id: str, within_s: float = 90) -> dict[str, Any]:
    """The finished job."""
    service.wait_for(
        lambda: get(service, job_id)["status"] in ("completed", "failed", "cancelled"), f"job {job_id} to finish", within_s
    )
    return get(service, job_id)


def results(service: Service, job_id: str) -> list[dict[str, Any]]:
    """All result rows there are."""
    answer = httpx.get(f"{service.url}/v1/embeddings/jobs/{job_id}/results", params={"format": "jsonl"}, timeout=60)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def records(texts: list[str]) -> list[str]:
    """NDJSON lines."""
    return [json.dumps({"id": f"doc-{n}", "text": text, "metadata": {"n": n}}) for n, text in enumerate(texts)]


def check_all(service: Service, job_id: str, texts: list[str], encode: Encode) -> None:
    """Every row once, in order, with the library's vector."""
    rows = results(service, job_id)
    assert [row["id"] for row in rows] == [f"doc-{n}" for n in range(len(texts))]
    assert cosines([row["embedding"] for row in rows], encode(texts)).min() >= 0.9999


def test_a_corpus_comes_back_in_order_with_the_librarys_vectors(service: Service, encode: Encode) -> None:
    texts = some_texts(120, 11)
    job = submit(service, records(texts))
    done = wait_finished(service, job["id"])
    assert done["status"] == "completed"
    assert done["counts"] | {"truncated": 0, "deduplicated": 0} == {
        **{"total": 120, "completed": 120, "failed": 0, "truncated": 0, "deduplicated": 0}
    }
    assert done["progress"] == 1
    check_all(service, job["id"], texts, encode)
    parquet = httpx.get(f"{service.url}/v1/embeddings/jobs/{job['id']}/results", params={"format": "parquet"}).content
    table = pq.read_table(io.BytesIO(parquet))
    assert table["id"].to_pylist() == [f"doc-{n}" for n in range(120)]
    vectors = np.array(table["embedding" if "embedding" in table.column_names else "vector"].to_pylist())
    assert cosines(vectors, encode(texts)).min() >= 0.9999


def test_a_bad_line_is_an_error_row_with_its_line_number_and_the_rest_completes(service: Service) -> None:
    lines = [*records(["one", "two"]), "not json", '{"id": "x"}', '{"text": 3}', "", '{"id": "last", "text": "three"}']
    job = submit(service, lines)
    done = wait_finished(service, job["id"])
    assert done["counts"]["failed"] == 3
    assert done["counts"]["completed"] == 3
    errors = httpx.get(f"{service.url}/v1/embeddings/jobs/{job['id']}/errors").text.splitlines()
    assert [json.loads(line)["line"] for line in errors] == [3, 4, 5]
    assert len(results(service, job["id"])) == 6


def test_a_job_survives_the_kill_of_its_worker(service: Service, encode: Encode) -> None:
    texts = some_texts(300, 12)
    job = submit(service, records(texts))
    service.wait_for(lambda: get(service, job["id"])["counts"]["completed"] > 0, "the first shard")
    service.kill_worker()
    assert get(service, job["id"])["status"] == "in_progress"
    service.start_worker()
    done = wait_finished(service, job["id"])
    assert done["counts"]["completed"] == 300
    check_all(service, job["id"], texts, encode)


def test_a_job_survives_a_restart_and_a_wipe_of_valkey(service: Service, encode: Encode) -> None:
    from redis import Redis

    texts = some_texts(300, 13)
    job = submit(service, records(texts))
    service.wait_for(lambda: get(service, job["id"])["counts"]["completed"] > 0, "the first shard")
    service.valkey.kill()
    assert get(service, job["id"])["status"] == "in_progress"  # from storage
    service.valkey.start()
    service.wait_for(lambda: get(service, job["id"])["counts"]["completed"] > 0, "it to go on")
    with Redis.from_url(service.valkey.url) as redis:
        redis.flushall()
    done = wait_finished(service, job["id"])
    assert done["counts"]["completed"] == 300
    check_all(service, job["id"], texts, encode)


def test_a_worker_whose_shards_all_end_while_valkey_is_away_goes_on_when_it_is_back(service: Service) -> None:
    job = submit(service, records(some_texts(600, 20)))
    outputs = service.storage / "jobs" / job["id"] / "output"
    service.wait_for(lambda: get(service, job["id"])["counts"]["completed"] > 0, "the first shard")
    service.valkey.kill()
    # Every shard that runs is committed, and none can be acknowledged, before Valkey comes back.
    service.wait_for(lambda: _is_quiet(outputs, 3.0), "the running shards to end")
    service.valkey.start()
    assert wait_finished(service, job["id"])["counts"]["completed"] == 600


def _is_quiet(directory: Path, for_s: float) -> bool:
    return time.time() - max(path.stat().st_mtime for path in directory.iterdir()) > for_s


def test_a_job_submitted_while_valkey_is_away_is_accepted_and_runs_afterwards(service: Service, encode: Encode) -> None:
    texts = some_texts(20, 14)
    service.valkey.kill()
    job = submit(service, records(texts))
    service.valkey.start()
    assert wait_finished(service, job["id"])["counts"]["completed"] == 20
    check_all(service, job["id"], texts, encode)


def test_two_workers_share_a_job(service: Service, encode: Encode) -> None:
    service.start_worker()
    texts = some_texts(400, 15)
    service.wait_for(
        lambda: httpx.get(f"{service.url}/readyz").json()["models"]["all-MiniLM-L6-v2"]["workers"] == 2, "two workers"
    )
    job = submit(service, records(texts))
    wait_finished(service, job["id"])
    check_all(service, job["id"], texts, encode)
    shards_by_log = [
        sum('"shard embedded"' in line and job["id"] in line for line in log.read_text().splitlines())
        for log in sorted(service.directory.glob("logs/*-worker.log"))
    ]
    assert sum(count > 0 for count in shards_by_log) == 2, shards_by_log


def test_cancel_pause_resume_and_delete_take_effect(service: Service) -> None:
    url = f"{service.url}/v1/embeddings/jobs"
    job = submit(service, records(some_texts(600, 16)))["id"]
    assert httpx.post(f"{url}/{job}/pause").json()["status"] == "paused"
    assert get(service, job)["status"] == "paused"
    assert httpx.post(f"{url}/{job}/resume").json()["status"] in ("queued", "in_progress")
    service.wait_for(lambda: get(service, job)["counts"]["completed"] > 0, "it to go on")
    assert httpx.post(f"{url}/{job}/cancel").json()["status"] == "cancelled"
    assert get(service, job)["counts"]["completed"] < 600
    other = submit(service, records(some_texts(600, 17)))["id"]
    service.wait_for(lambda: get(service, other)["status"] == "in_progress", "it to start")
    assert httpx.delete(f"{url}/{other}").json()["deleted"] is True
    assert httpx.get(f"{url}/{other}").status_code == 404
    follower = submit(service, records(["after"]))["id"]
    assert wait_finished(service, follower)["counts"]["completed"] == 1
    assert not (service.directory / "storage" / "jobs" / other).exists()


def test_the_same_idempotency_key_gives_the_same_job(service: Service) -> None:
    lines = records(["once"])
    first = submit(service, lines, headers={"idempotency-key": "k-1"})
    again = submit(service, lines, headers={"idempotency-key": "k-1"})
    assert again["id"] == first["id"]
    changed = httpx.post(
        f"{service.url}/v1/embeddings/jobs",
        content=b'{"text": "other"}',
        headers={"content-type": "application/x-ndjson", "idempotency-key": "k-1"},
    )
    assert 400 <= changed.status_code < 500


def test_a_small_job_beside_a_large_one_is_done_first(service: Service) -> None:
    large = submit(service, records(some_texts(800, 18)))["id"]
    service.wait_for(lambda: get(service, large)["counts"]["completed"] > 0, "the large one to run")
    small = submit(service, records(some_texts(10, 19)))["id"]
    wait_finished(service, small)
    assert get(service, large)["status"] == "in_progress"
    httpx.post(f"{service.url}/v1/embeddings/jobs/{large}/cancel")
