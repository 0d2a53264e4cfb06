"""Does the device ever idle while a job runs? A model that only sleeps for its tokens, so what is missing is idle time.

python -m bench.idle [--texts 4000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import orjson

from bench.ending import end_on_signals
from bench.texts import make_texts
from tests.support.service import running_service

SECONDS_PER_TOKEN = 0.0001
STREAMS = 2
MODELS = f"""
- name: sleeper
  backend: fake
  parameters:
    model: "fake?dimensions=384&seconds_per_token={SECONDS_PER_TOKEN}"
"""
JOBS = "/v1/embeddings/jobs"


def main() -> None:
    """Print which part of the streams' time was spent in the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=4000)
    texts = make_texts("mixed", parser.parse_args().texts, 3)
    end_on_signals()
    body = b"\n".join(orjson.dumps({"text": text}) for text in texts)
    options = {"models": MODELS, "streams": STREAMS, "shard_seconds": 1.0}
    with (
        tempfile.TemporaryDirectory() as directory,
        running_service(Path(directory), **options) as service,
        service.client() as client,
    ):
        for _ in range(2):  # the first tells how fast the model is, and so how large a shard
            job = client.post(JOBS, content=body, headers={"content-type": "application/x-ndjson"}).json()["id"]
            while (seen := client.get(f"{JOBS}/{job}").json())["status"] != "completed":
                time.sleep(0.1)
            files = len(list((service.storage / "jobs" / job / "output").glob("*.parquet")))
            seconds = seen["finished_at"] - seen["started_at"]
            busy_s = seen["tokens"] * SECONDS_PER_TOKEN / STREAMS
            print(f"{files} shards, {seconds:.1f} s, in the model {busy_s:.1f} s: {busy_s / seconds:.1%}", flush=True)


if __name__ == "__main__":
    main()
