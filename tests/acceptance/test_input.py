"""Input of every kind, through the real processes: as a body, in a form, from a file, also if no worker lives when it comes."""

from __future__ import annotations

import gzip

import httpx
import numpy as np

from tests.acceptance.test_bulk import get, results, wait_finished
from tests.shared.intake.support import WRITERS, pack
from tests.support.service import Service
from tests.support.texts import some_texts

JOBS = "/v1/embeddings/jobs"


def test_every_kind_of_input_gives_the_same_vectors(service: Service) -> None:
    rows = [{"id": f"doc-{number}", "text": text} for number, text in enumerate(some_texts(12, seed=1))]
    with service.client() as client:
        jobs = [
            client.post(
                JOBS, content=pack(write(rows), "zstd"), params={"format": name}, headers={"content-type": "application/zstd"}
            )
            for name, write in WRITERS.items()
        ]
        jobs.append(client.post(JOBS, files={"file": ("corpus.csv.gz", gzip.compress(WRITERS["csv"](rows)))}))
        file = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("corpus.parquet", WRITERS["parquet"](rows))})
        jobs.append(client.post(JOBS, json={"input_file_id": file.json()["id"]}))
    found = []
    for answer in jobs:
        assert answer.status_code == 202, answer.text
        job = wait_finished(service, answer.json()["id"])
        assert (job["status"], job["counts"]["completed"]) == ("completed", 12)
        found.append([row["embedding"] for row in results(service, job["id"])])
    assert all(np.allclose(vectors, found[0], atol=1e-5) for vectors in found)


def test_a_file_submitted_while_no_worker_lives_is_read_later_or_fails_with_its_reason(service: Service) -> None:
    texts = [f"{text} {number}" for number, text in enumerate(some_texts(20, seed=2) * 3)]
    body = gzip.compress(b"".join(text.replace("\n", " ").encode() + b"\n" for text in texts))
    with service.client() as client:
        file = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("corpus.txt.gz", body)}).json()
        broken = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("corpus.txt.gz", body[:-9])}).json()
        service.kill_worker()
        ids = [client.post(JOBS, json={"input_file_id": each["id"]}).json()["id"] for each in (file, broken)]
        assert [get(service, job_id)["status"] for job_id in ids] == ["validating", "validating"]
        service.start_worker()
    whole, failed = [wait_finished(service, job_id) for job_id in ids]
    assert (whole["status"], whole["counts"]["completed"]) == ("completed", len(texts))
    assert (failed["status"], failed["errors"]["data"][0]["code"]) == ("failed", "incomplete_body")
    assert httpx.get(f"{service.url}{JOBS}/{ids[1]}/results", timeout=30).content == b""
