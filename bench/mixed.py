"""One client asks short questions while 8 clients send 128 mixed texts at a time and a job runs: what does it notice?

python -m bench.mixed [--seconds 30]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import orjson

from bench.ending import end_on_signals
from bench.load import Load, run
from bench.model import MODELS
from bench.model import NAME as MODEL
from bench.texts import make_texts
from tests.support.service import running_service

JOBS = "/v1/embeddings/jobs"


def line(name: str, load: Load, beside: str = "") -> None:
    """One row of the table."""
    wrong = {status: count for status, count in load.statuses.items() if status != "200"}
    print(f"| {name} | {load.percentile(50):.1f} | {load.percentile(99):.1f} | {beside} | {wrong or 0} |", flush=True)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    seconds = parser.parse_args().seconds
    end_on_signals()
    short = [[text] for text in make_texts("short", 20_000, 1)]
    mixed = make_texts("mixed", 4096, 2)
    batches = [mixed[first : first + 128] for first in range(0, len(mixed), 128)]
    # The eight are to be slow, not refused: their time is up later than the bench.
    options = {"models": MODELS, "interactive_timeout_s": 300}
    with tempfile.TemporaryDirectory() as directory, running_service(Path(directory), **options) as service:
        print("| case | p50 ms | p99 ms | beside it | errors |\n|---|---|---|---|---|")
        run(service.url, batches[:4], 2, model=MODEL)
        run(service.url, short[:50], 1, model=MODEL)
        line("1 client alone", run(service.url, short, 1, model=MODEL, until_s=seconds / 3))
        alone = run(service.url, batches, 8, model=MODEL, until_s=seconds)
        corpus = make_texts("mixed", 12_000, 7)
        body = b"\n".join(orjson.dumps({"text": text}) for text in corpus)
        with service.client() as client:
            job = client.post(JOBS, content=body, headers={"content-type": "application/x-ndjson"}).json()["id"]
            while client.get(f"{JOBS}/{job}").json()["counts"]["completed"] == 0:
                time.sleep(0.05)
            done = [client.get(f"{JOBS}/{job}").json()["counts"]["completed"]]
            beside: list[Load] = []
            others = threading.Thread(
                target=lambda: beside.append(run(service.url, batches, 8, model=MODEL, until_s=seconds)), daemon=True
            )
            others.start()
            time.sleep(3)
            load = run(service.url, short, 1, model=MODEL, until_s=seconds - 3)
            done.append(client.get(f"{JOBS}/{job}").json()["counts"]["completed"])
            others.join()
            client.post(f"{JOBS}/{job}/cancel")
        both = beside[0].texts_per_s + (done[1] - done[0]) / seconds
        line("1 client, 8 x 128 and a job beside it", load, f"{both:.1f} texts/s (8 x 128 alone {alone.texts_per_s:.1f})")
        line("the 8", beside[0])


if __name__ == "__main__":
    main()
