"""Memory under mixed load for as long as one likes: questions, asks of 128 texts, jobs that come, are read and are deleted.

python -m bench.soak [--minutes 10] [--stub]

Ends with 1 if memory still grows by more than --most-mb-per-hour in the second half, when everything is warm.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import orjson

from bench.lane import MODELS as STUB
from bench.lane import processes
from bench.load import run
from bench.processes import MEGABYTE, resident_bytes
from bench.texts import make_texts
from tests.support.service import MODELS, Service, running_service

JOBS = "/v1/embeddings/jobs"
QUESTIONS = 4  # clients
NAMES = ("web", "worker", "valkey")


class Soak:
    """The load on one installation, and what its processes weigh meanwhile."""

    def __init__(self, service: Service, model: str, seconds: float) -> None:
        self._service = service
        self._model = model
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self.times: list[float] = []  # seconds since the start
        self.sizes: dict[str, list[float]] = {name: [] for name in NAMES}  # MB, of the largest process of its kind
        self.statuses: Counter[str] = Counter()
        self.jobs = 0

    def run(self) -> None:
        """Returns when the time is over and the last job is deleted."""
        kinds: list[Callable[[], None]] = [self._ask_questions, self._ask_much, self._submit, self._submit, self._watch]
        with ThreadPoolExecutor(len(kinds)) as pool:
            for future in [pool.submit(kind) for kind in kinds]:
                future.result()

    def _ask_questions(self) -> None:
        texts = [[text] for text in make_texts("short", 5000, 1)]
        load = run(self._service.url, texts, QUESTIONS, model=self._model, until_s=self._seconds)
        self.statuses.update({f"question {status}": count for status, count in load.statuses.items()})

    def _ask_much(self) -> None:
        texts = make_texts("mixed", 128 * 20, 2)
        batches = [texts[first : first + 128] for first in range(0, len(texts), 128)]
        load = run(self._service.url, batches, 1, model=self._model, until_s=self._seconds)
        self.statuses.update({f"128 texts {status}": count for status, count in load.statuses.items()})

    def _submit(self) -> None:
        """A job, its results in some format, its end; some are deleted while they run."""
        chosen = random.Random(threading.get_ident())
        with self._service.client() as client:
            while time.monotonic() < self._until:
                texts = make_texts("mixed", chosen.randint(20, 400), chosen.randrange(10**6))
                body = b"\n".join(orjson.dumps({"text": text}) for text in texts)
                answer = client.post(JOBS, content=body, headers={"content-type": "application/x-ndjson"})
                self.statuses[f"job {answer.status_code}"] += 1
                if answer.status_code != 202:
                    time.sleep(float(answer.headers.get("retry-after", 1)))
                    continue
                url, deleted_at = f"{JOBS}/{answer.json()['id']}", time.monotonic() + chosen.choice([1.0, 60.0])
                while time.monotonic() < min(self._until, deleted_at) and client.get(url).json()["status"] != "completed":
                    time.sleep(0.2)
                client.get(f"{url}/results", params={"format": chosen.choice(["jsonl", "parquet", "arrow"])})
                client.delete(url)
                self.jobs += 1

    def _watch(self) -> None:
        pids, began = processes(self._service), time.monotonic()
        while time.monotonic() < self._until:
            self.times.append(time.monotonic() - began)
            for name in NAMES:
                self.sizes[name].append(max(map(resident_bytes, pids[name]()), default=0) / MEGABYTE)
            time.sleep(min(1.0, self._seconds / 60))


def slope_mb_per_hour(times: Sequence[float], sizes: Sequence[float]) -> float:
    """Of a straight line through the samples."""
    return float(np.polyfit(times, sizes, 1)[0]) * 3600


def table(soak: Soak) -> float:
    """Ten rows over the time, then how the second half grew; MB an hour of whatever grew most."""
    print("\n| minute | web MB | worker MB | Valkey MB |\n|---|---|---|---|")
    for row in range(11):
        at = min(len(soak.times) - 1, row * len(soak.times) // 10)
        print(f"| {soak.times[at] / 60:.1f} | " + " | ".join(f"{soak.sizes[name][at]:.0f}" for name in NAMES) + " |")
    half = len(soak.times) // 2
    slopes = [slope_mb_per_hour(soak.times[half:], soak.sizes[name][half:]) for name in NAMES]
    print("| second half, MB an hour | " + " | ".join(f"{slope:+.0f}" for slope in slopes) + " |")
    print("| most | " + " | ".join(f"{max(soak.sizes[name]):.0f}" for name in NAMES) + " |")
    return max(slopes)


def main() -> None:
    """Print the table; a wrong answer is counted in the line below it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument(
        "--stub", action="store_true", help="a model that takes no time: more requests, less of the model's memory"
    )
    parser.add_argument("--most-mb-per-hour", type=float, default=60, help="a minute or two prove nothing: then give more")
    given = parser.parse_args()
    models, model = (STUB, "null") if given.stub else (MODELS, "all-MiniLM-L6-v2")
    with tempfile.TemporaryDirectory() as directory, running_service(Path(directory), models=models) as service:
        httpx.post(f"{service.url}/v1/embeddings", json={"model": model, "input": "warm"}, timeout=60).raise_for_status()
        soak = Soak(service, model, given.minutes * 60)
        soak.run()
        growth = table(soak)
    print(f"\n{soak.jobs} jobs; answers {dict(sorted(soak.statuses.items()))}")
    sys.exit(growth > given.most_mb_per_hour)


if __name__ == "__main__":
    main()
