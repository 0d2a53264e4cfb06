"""What the lane and web cost: a model that takes no time, beside a Flask server that answers by itself.

python -m bench.lane [--seconds 5] [--rounds 3]

Latency and rate say what a client sees, and depend on what else the machine does; the processor time a request costs in
each process hardly does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from bench.load import Load, run
from bench.processes import cpu_seconds, family
from bench.texts import make_texts
from tests.support.service import Service, running_service
from tests.support.valkey import free_port

MODELS = """
- name: "null"
  backend: fake
  parameters:
    model: "fake?dimensions=384"
"""
CLIENTS = (1, 64)
Pids = Mapping[str, Callable[[], Sequence[int]]]


@contextmanager
def flask_alone() -> Iterator[tuple[str, Pids]]:
    """Its URL and its processes."""
    port = free_port()
    command = ["gunicorn", "-b", f"127.0.0.1:{port}", "-k", "gthread", "--threads", "64", "--keep-alive", "75"]
    server = subprocess.Popen(
        [sys.executable, "-m", *command, "bench.flask_alone:app"], stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while True:
            try:
                httpx.post(f"{url}/v1/embeddings", json={"model": "null", "input": "x"}).raise_for_status()
                break
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield url, {"web": lambda: family(server.pid)}
    finally:
        server.terminate()
        server.wait()


def processes(service: Service) -> Pids:
    """Of a whole installation."""
    web = service.web
    assert web is not None
    return {
        "web": lambda: family(web.pid),
        "worker": lambda: [pid for worker in service.workers for pid in family(worker.pid)],
        "valkey": lambda: [service.valkey.process.pid] if service.valkey.process else [],
        "client": lambda: [os.getpid()],
    }


def measure(url: str, pids: Pids, clients: int, seconds: float, inputs: int = 1) -> tuple[Load, dict[str, float]]:
    """The load, and by process the milliseconds of processor time that a request cost."""
    texts = make_texts("short", 2000 * inputs, clients)
    batches = [texts[first : first + inputs] for first in range(0, len(texts), inputs)]
    run(url, batches[:200], clients, model="null")
    before = {name: sum(map(cpu_seconds, find())) for name, find in pids.items()}
    load = run(url, batches, clients, model="null", until_s=seconds)
    spent = {name: sum(map(cpu_seconds, find())) - before[name] for name, find in pids.items()}
    return load, {name: 1000 * cpu_s / max(1, len(load.latencies)) for name, cpu_s in spent.items()}


def table(name: str, url: str, pids: Pids, seconds: float, rounds: int) -> None:
    """A row for each number of clients: medians over the rounds."""
    for clients in CLIENTS:
        found = [measure(url, pids, clients, seconds) for _ in range(rounds)]
        middle = statistics.median
        cpu = ", ".join(f"{part} {middle(cost[part] for _, cost in found):.2f}" for part in found[0][1])
        wrong = sum(sum(load.statuses.values()) - load.statuses["200"] for load, _ in found)
        p50, p99 = middle(load.percentile(50) for load, _ in found), middle(load.percentile(99) for load, _ in found)
        rate = middle(load.requests_per_s for load, _ in found)
        print(f"| {name}, {clients} | {rate:.0f} | {p50:.2f} | {p99:.2f} | {cpu} | {wrong} |", flush=True)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print("| server, clients | requests/s | p50 ms | p99 ms | processor ms a request | errors |\n|---|---|---|---|---|---|")
    with flask_alone() as (url, pids):
        table("Flask alone", url, {**pids, "client": lambda: [os.getpid()]}, given.seconds, given.rounds)
    options = {"models": MODELS, "log_level": "info"}
    with tempfile.TemporaryDirectory() as directory, running_service(Path(directory), **options) as service:
        table("umekomi", service.url, processes(service), given.seconds, given.rounds)


if __name__ == "__main__":
    main()
