"""Jobs for tests, submitted without web."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pyarrow as pa

from shared import records
from shared.jobs.job import Job, new_job_id
from shared.jobs.jobs import Jobs


def input_table(texts: list[str | None], first: int = 0) -> pa.Table:
    errors = [orjson.dumps({"code": "invalid_line", "message": "no text"}).decode() if text is None else None for text in texts]
    return pa.table(
        {
            "index": range(first, first + len(texts)),
            "line": range(first + 1, first + len(texts) + 1),
            "id": [f"id-{first + n}" for n in range(len(texts))],
            "text": texts,
            "metadata": [None] * len(texts),
            "error": errors,
        },
        schema=records.INPUT_SCHEMA,
    )


def submit(jobs: Jobs, shards: list[list[str | None]], **fields: Any) -> Job:
    job_id, first = new_job_id(), 0
    for shard, texts in enumerate(shards):
        jobs.store.put_input(job_id, shard, input_table(texts, first))
        first += len(texts)
    job = Job(id=job_id, owner="o", model="m", created_at=time.time(), shards=tuple(map(len, shards)), **fields)
    return jobs.submit(job)
