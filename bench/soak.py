"""Memory under mixed load for as long as one likes: questions, asks of 128 texts, jobs that come, are read and are deleted.

python -m bench.soak [--seconds 600] [--stub]

Prints a row a minute as it goes: resident memory of the largest process of each kind. Ends with 1 if a request failed, or if
memory still grows by more than --most-mb-per-hour in the second half, when everything is warm (of 5 minutes or more: less
proves nothing).
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
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson

from bench.ending import end_on_signals
from bench.lane import MODELS as STUB
from bench.lane import processes
from bench.load import run
from bench.model import MODELS, NAME
from bench.processes import MEGABYTE, resident_bytes
from bench.texts import make_texts
from tests.support.service import Service, running_service

JOBS = "/v1/embeddings/jobs"
NDJSON = {"content-type": "application/x-ndjson"}
QUESTIONS = 4  # clients
NAMES = ("web", "worker", "valkey")
JUDGED_S = 300  # a shorter run says nothing about growth


class Soak:
    """The load on one installation, and what its processes weigh meanwhile."""

    def __init__(self, service: Service, model: str, seconds: float) -> None:
        self._service = service
        self._model = model
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._lock = threading.Lock()
        self.times: list[float] = []  # seconds since the start
        self.sizes: dict[str, list[float]] = {name: [] for name in NAMES}  # MB, of the largest process of its kind
        self.answers: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.jobs = 0

    def run(self) -> None:
        """Prints a row a minute; returns when the time is over and the last job is deleted."""
        kinds: list[Callable[[], None]] = [self._ask_questions, self._ask_much, self._submit, self._submit]
        # Daemons: a bench that is told to stop does not wait for them.
        threads = [threading.Thread(target=self._guarded, args=(kind,), daemon=True) for kind in kinds]
        for thread in threads:
            thread.start()
        self._watch()
        for thread in threads:
            thread.join()

    def _guarded(self, kind: Callable[[], None]) -> None:
        while True:
            try:
                return kind()
            except httpx.HTTPError as error:
                self._count(kind.__name__.strip("_"), type(error).__name__)
                if time.monotonic() > self._until:
                    return None
                time.sleep(1)

    def _count(self, what: str, status: int | str, times: int = 1) -> None:
        with self._lock:
            counter = self.answers if str(status).startswith("2") else self.errors
            counter[f"{what} {status}"] += times

    def _left_s(self) -> float:
        return max(0.1, self._until - time.monotonic())

    def _ask_questions(self) -> None:
        texts = [[text] for text in make_texts("short", 5000, 1)]
        self._load("question", run(self._service.url, texts, QUESTIONS, model=self._model, until_s=self._left_s()).statuses)

    def _ask_much(self) -> None:
        texts = make_texts("mixed", 128 * 20, 2)
        batches = [texts[first : first + 128] for first in range(0, len(texts), 128)]
        self._load("128 texts", run(self._service.url, batches, 1, model=self._model, until_s=self._left_s()).statuses)

    def _load(self, what: str, statuses: Counter[str]) -> None:
        for status, count in statuses.items():
            self._count(what, status, count)

    def _submit(self) -> None:
        """A job, its results in some format, its end; some are deleted while they run."""
        chosen = random.Random(threading.get_ident())
        with self._service.client() as client:
            while time.monotonic() < self._until:
                texts = make_texts("mixed", chosen.randint(20, 400), chosen.randrange(10**6))
                body = b"\n".join(orjson.dumps({"text": text}) for text in texts)
                job = self._answer("job", client.post(JOBS, content=body, headers=NDJSON))
                if job is None:
                    time.sleep(1)
                    continue
                url, deleted_at = f"{JOBS}/{job['id']}", time.monotonic() + chosen.choice([1.0, 60.0])
                while time.monotonic() < min(self._until, deleted_at):
                    now = self._answer("status", client.get(url))
                    if now is None or now["status"] == "completed":
                        break
                    time.sleep(0.2)
                format_ = chosen.choice(["jsonl", "parquet", "arrow"])
                self._count("results", client.get(f"{url}/results", params={"format": format_}).status_code)
                self._count("delete", client.delete(url).status_code)
                self.jobs += 1

    def _answer(self, what: str, answer: httpx.Response) -> dict[str, Any] | None:
        self._count(what, answer.status_code)
        if not answer.is_success:
            return None
        found: dict[str, Any] = orjson.loads(answer.content)
        failed = found["counts"]["failed"]
        if failed or found["status"] == "failed":
            self._count(what, f"with {failed} failed rows, {found['status']}")
        return found

    def _watch(self) -> None:
        print("| minute | web MB | worker MB | Valkey MB |\n|---|---|---|---|")
        pids, began, every_s = processes(self._service), time.monotonic(), min(60.0, self._seconds / 10)
        printed_at = -every_s
        while time.monotonic() < self._until:
            now = time.monotonic() - began
            self.times.append(now)
            for name in NAMES:
                self.sizes[name].append(max(map(resident_bytes, pids[name]()), default=0) / MEGABYTE)
            if now >= printed_at + every_s:
                printed_at += every_s
                line(f"{now / 60:.2f}", [self.sizes[name][-1] for name in NAMES])
            time.sleep(min(1.0, self._seconds / 60))


def line(name: str, sizes: Sequence[float], form: str = ".0f") -> None:
    """One row of the table."""
    print(f"| {name} | {' | '.join(format(size, form) for size in sizes)} |", flush=True)


def slope_mb_per_hour(times: Sequence[float], sizes: Sequence[float]) -> float:
    """Of a straight line through the samples."""
    return float(np.polyfit(times, sizes, 1)[0]) * 3600


def summary(soak: Soak) -> float:
    """The table's last rows; MB an hour of whatever grew most in the second half."""
    sizes = [soak.sizes[name] for name in NAMES]
    line("first", [size[0] for size in sizes])
    line("last", [size[-1] for size in sizes])
    line("most", [max(size) for size in sizes])
    half = len(soak.times) // 2
    slopes = [slope_mb_per_hour(soak.times[half:], size[half:]) for size in sizes]
    line("second half, MB an hour", slopes, "+.0f")
    return max(slopes)


def main() -> None:
    """Print the table; what was answered is in the lines below it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument(
        "--stub", action="store_true", help="a model that takes no time: more requests, less of the model's memory"
    )
    parser.add_argument("--most-mb-per-hour", type=float, default=60)
    given = parser.parse_args()
    end_on_signals()
    models, model = (STUB, "null") if given.stub else (MODELS, NAME)
    # Under such load somebody may wait for long: that is not what is asked here.
    options = {"models": models, "interactive_timeout_s": 120}
    with tempfile.TemporaryDirectory() as directory, running_service(Path(directory), **options) as service:
        httpx.post(f"{service.url}/v1/embeddings", json={"model": model, "input": "warm"}, timeout=60).raise_for_status()
        soak = Soak(service, model, given.seconds)
        soak.run()
        growth = summary(soak)
    print(f"\n{soak.jobs} jobs; answered: {_told(soak.answers)}; errors: {_told(soak.errors) or 'none'}")
    sys.exit(bool(soak.errors) or (given.seconds >= JUDGED_S and growth > given.most_mb_per_hour))


def _told(counter: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in sorted(counter.items()))


if __name__ == "__main__":
    main()
