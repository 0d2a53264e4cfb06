"""A corpus, and the same corpus with some of it changed, as jobs with `cache: true`: seconds and rows embedded of each.

python -m bench.cache [--rows 20000] [--changed 0.01] [--real]

Without --real the model is a fake one of 384 dimensions that takes 20 µs a token.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import orjson

from bench.ending import end_on_signals
from bench.model import MODELS
from bench.texts import make_texts
from tests.support.service import Service, running_service

FAKE = """
- name: fake
  backend: fake
  default: true
  parameters: {model: "fake?dimensions=384&seconds_per_token=0.00002"}
"""
JOBS = "/v1/embeddings/jobs"


def ingest(service: Service, texts: list[str]) -> tuple[float, int]:
    """Seconds from the submission to the end of the job, and how many rows went through the model."""
    body = b"\n".join(orjson.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts))
    with service.client() as client:
        started = time.perf_counter()
        submitted = client.post(
            JOBS, params={"cache": "true"}, content=body, headers={"content-type": "application/x-ndjson"}
        ).json()
        while (job := client.get(f"{JOBS}/{submitted['id']}").json())["status"] != "completed":
            time.sleep(0.05)
        seconds = time.perf_counter() - started
    return seconds, job["counts"]["total"] - job["counts"]["deduplicated"]


def main() -> None:
    """Print a line a job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--changed", type=float, default=0.01, help="which part of the corpus changed")
    parser.add_argument("--real", action="store_true", help="all-MiniLM-L6-v2 instead of the fake model")
    arguments = parser.parse_args()
    end_on_signals()
    texts = make_texts("short", arguments.rows)
    changed = list(texts)
    for row in random.Random(0).sample(range(arguments.rows), round(arguments.rows * arguments.changed)):
        changed[row] += " changed"
    models = MODELS if arguments.real else FAKE
    with tempfile.TemporaryDirectory() as directory, running_service(Path(directory), models=models) as service:
        for name, corpus in (("first", texts), ("changed", changed), ("again", changed)):
            seconds, embedded = ingest(service, corpus)
            print(f"{name:8} {seconds:7.2f} s   {embedded:6} of {len(corpus)} rows embedded", flush=True)
        size = sum(path.stat().st_size for path in (service.storage / "cache").rglob("*") if path.is_file())
        print(f"cache    {size / 2**20:7.1f} MiB")


if __name__ == "__main__":
    main()
