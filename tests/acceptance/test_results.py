"""Results of a real job, in every format, as the tools that people have read them; and a retry through the real processes."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.acceptance.conftest import Encode
from tests.acceptance.test_bulk import get, submit, wait_finished
from tests.support.service import Service
from tests.support.texts import cosines, some_texts


def fetch(service: Service, job_id: str, query: str, **headers: str) -> httpx.Response:
    answer = httpx.get(f"{service.url}/v1/embeddings/jobs/{job_id}/results?{query}", headers=headers, timeout=60)
    assert answer.is_success, answer.text
    return answer


def test_every_format_holds_the_librarys_vectors_and_a_failed_text_is_retried(service: Service, encode: Encode) -> None:
    texts = some_texts(60, 41)
    lines: list[Any] = [json.dumps({"id": f"d{n}", "text": text}) for n, text in enumerate(texts)]
    lines.insert(10, json.dumps({"id": "long", "text": "far too long " * 500}))
    job_id = submit(service, lines, params={"truncate": "error"})["id"]
    done = wait_finished(service, job_id)
    assert (done["counts"]["completed"], done["counts"]["failed"]) == (60, 1)
    wanted = encode(texts)
    ids = [f"d{n}" for n in range(60)]

    def check() -> None:
        for dtype, least in (("float32", 0.9999), ("float16", 0.999)):
            arrow = pa.ipc.open_stream(fetch(service, job_id, f"format=arrow&dtype={dtype}").content).read_all()
            parquet = pq.read_table(io.BytesIO(fetch(service, job_id, f"format=parquet&dtype={dtype}").content))
            for table in (arrow, parquet):
                good = table.filter(pa.compute.is_null(table["error"]))
                assert good["id"].to_pylist() == ids
                assert cosines(np.array(good["embedding"].to_pylist()), wanted).min() >= least
            matrix = np.load(io.BytesIO(fetch(service, job_id, f"format=npy&dtype={dtype}").content), allow_pickle=False)
            with np.load(io.BytesIO(fetch(service, job_id, f"format=npz&dtype={dtype}").content), allow_pickle=False) as arrays:
                np.testing.assert_array_equal(arrays["vectors"], matrix)
                failed = np.isnan(matrix).any(axis=1)
                assert (matrix.dtype, failed.nonzero()[0].tolist()) == (np.dtype(dtype), [10])
                assert arrays["ids"][~failed].tolist() == ids
            assert cosines(matrix[~failed].astype(np.float32), wanted).min() >= least
            rows = [json.loads(line) for line in fetch(service, job_id, f"dtype={dtype}").text.splitlines()]
            assert cosines([row["embedding"] for row in rows if "embedding" in row], wanted).min() >= least
            assert rows[10]["error"]["code"] == "context_length_exceeded"

    check()
    whole = fetch(service, job_id, "format=parquet")
    rest = fetch(service, job_id, "format=parquet", **{"Range": "bytes=1000-", "If-Range": whole.headers["etag"]})
    assert (rest.status_code, rest.content) == (206, whole.content[1000:])

    retried = httpx.post(f"{service.url}/v1/embeddings/jobs/{job_id}/retry").json()
    assert (retried["retries"], retried["counts"]["failed"]) == (1, 0)
    done = wait_finished(service, job_id)
    assert (done["status"], done["counts"]["completed"], done["counts"]["failed"]) == ("completed", 60, 1)
    assert get(service, job_id)["retries"] == 1
    check()
