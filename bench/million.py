"""A job of a million short rows with a stub backend: what the machinery around the model costs in time and memory.

python -m bench.million [--rows 1000000]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from bench.ending import end_on_signals
from bench.processes import family, trend, watched
from tests.support.service import Service, running_service

MODELS = """
- name: stub
  backend: fake
  parameters:
    model: "fake?dimensions=8"
"""
JOBS = "/v1/embeddings/jobs"


def body(rows: int) -> Iterator[bytes]:
    """NDJSON of short texts, made as it is sent."""
    for first in range(0, rows, 5000):
        last = min(first + 5000, rows)
        yield b"".join(b'{"id": "doc-%d", "text": "a short row, number %d of many"}\n' % (n, n) for n in range(first, last))


def timed(client: httpx.Client, url: str) -> tuple[float, httpx.Response]:
    """Milliseconds of one GET."""
    started = time.perf_counter()
    answer = client.get(url)
    return (time.perf_counter() - started) * 1000, answer


def measure(service: Service, rows: int) -> None:
    """Submit, watch, download; print what it took."""
    web = service.web
    assert web is not None
    pids = {
        "web": lambda: family(web.pid),
        "worker": lambda: [pid for worker in service.workers for pid in family(worker.pid)],
        "valkey": lambda: [service.valkey.process.pid] if service.valkey.process else [],
    }
    with service.client() as client, watched(pids) as seen:
        started = time.perf_counter()
        headers = {"content-type": "application/x-ndjson"}
        job = client.post(JOBS, content=body(rows), headers=headers, timeout=600).json()
        submitted = time.perf_counter()
        status_ms, list_ms = [], []
        while True:
            took, answer = timed(client, f"{JOBS}/{job['id']}")
            status_ms.append(took)
            list_ms.append(timed(client, f"{JOBS}?limit=20")[0])
            if answer.json()["status"] == "completed":
                break
            time.sleep(0.1)
        finished = time.perf_counter()
        with client.stream("GET", f"{JOBS}/{job['id']}/results", params={"format": "jsonl"}) as results:
            lines = sum(chunk.count(b"\n") for chunk in results.iter_bytes())
        downloaded = time.perf_counter()
    assert lines == rows, f"{lines} result rows of {rows}"
    print(f"submitted: {rows / (submitted - started):,.0f} rows/s")
    print(f"embedded (stub): {rows / (finished - submitted):,.0f} rows/s after the upload")
    print(f"downloaded as JSONL: {rows / (downloaded - finished):,.0f} rows/s")
    print(f"status while it runs: {statistics.median(status_ms):.1f} ms median, {max(status_ms):.1f} ms at most")
    print(f"list while it runs: {statistics.median(list_ms):.1f} ms median, {max(list_ms):.1f} ms at most")
    for name, samples in seen.items():
        print(f"{name}, memory at a quarter / half / end / most: {trend(samples)}")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    end_on_signals()
    with tempfile.TemporaryDirectory() as directory, running_service(Path(directory), models=MODELS) as service:
        measure(service, rows)


if __name__ == "__main__":
    main()
