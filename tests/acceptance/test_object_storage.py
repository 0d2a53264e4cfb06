"""The same promises with storage on S3: real processes, moto's server as the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from redis import Redis

from tests.support.chaos import MODELS, expected_vectors
from tests.support.s3 import running_s3
from tests.support.service import Service
from tests.support.texts import some_texts

JOBS = "/v1/embeddings/jobs"


@pytest.mark.timeout(240)
def test_a_job_on_s3_survives_the_kill_of_its_worker_and_a_wipe(tmp_path: Path) -> None:
    texts = some_texts(1500, 31, (2, 30))
    with running_s3() as s3:
        service = Service(
            tmp_path,
            models=MODELS,
            storage_url=f"{s3.url}/production",
            shard_seconds=0.5,
            lease_s=3,
            resend_after_s=4,
            reconcile_interval_s=1,
        )
        service.environment |= s3.variables
        try:
            service.start(workers=2)
            body = b"\n".join(orjson.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts))
            headers = {"content-type": "application/x-ndjson"}
            url = f"{service.url}{JOBS}/{httpx.post(f'{service.url}{JOBS}', content=body, headers=headers).json()['id']}"

            def job() -> dict[str, Any]:
                found: dict[str, Any] = httpx.get(url, timeout=30).json()
                return found

            service.wait_for(lambda: job()["counts"]["completed"] > 0, "the first shard")
            service.kill_worker()
            with Redis.from_url(service.valkey.url) as redis:
                redis.flushall()
            service.wait_for(lambda: job()["status"] == "completed", "the job to complete", 120)
            rows = [orjson.loads(line) for line in httpx.get(f"{url}/results?format=jsonl", timeout=60).content.splitlines()]
            assert job()["counts"]["completed"] == len(texts)
            assert [row["id"] for row in rows] == [str(n) for n in range(len(texts))]
            assert np.allclose([row["embedding"] for row in rows], expected_vectors(texts), atol=1e-5)
            assert httpx.delete(url, timeout=30).json()["deleted"] is True
            assert not any("/jobs/" in key for key in _keys(s3.client))
        finally:
            service.stop()


def _keys(client: Any) -> list[str]:
    return [entry["Key"] for entry in client.list_objects_v2(Bucket="umekomi-tests").get("Contents", [])]
