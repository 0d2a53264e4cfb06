"""A storm of clients, and whether a service is idle after it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from redis import Redis

from shared import keys
from tests.support.service import Service

# 2 ms a text, so that a lane of a few asks is full with a hundred clients.
MODELS = """
- name: fake
  backend: fake
  default: true
  parameters:
    model: fake?dimensions=8&seconds_per_token=0.001
"""
PATIENCE_S = 60.0


@dataclass
class Outcome:
    """How the requests ended; `waits_s` are those between what was sent and its answer, whatever that said."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    without_retry_headers: int = 0

    def quantile(self, share: float) -> float:
        ordered = sorted(self.waits_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def storm(url: str, *, clients: int, requests: int, is_patient: bool = False) -> Outcome:
    """Clients side by side, each of which sends its requests one after the other.

    A patient one waits as retry-after-ms says and sends the same again; what counts is how that ends.
    """
    outcome, ready = Outcome(), threading.Barrier(clients)

    def run() -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            ready.wait()
            for _ in range(requests):
                _one(client, outcome, is_patient)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def _one(client: httpx.Client, outcome: Outcome, is_patient: bool) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        sent_at = time.monotonic()
        try:
            response = client.post("/v1/embeddings", json={"input": "a question"})
        except httpx.HTTPError as error:
            outcome.failures.append(type(error).__name__)
            return
        outcome.waits_s.append(time.monotonic() - sent_at)
        if response.status_code == 429 and not {"retry-after", "retry-after-ms"} <= set(response.headers):
            outcome.without_retry_headers += 1
        if response.status_code != 429 or not is_patient or time.monotonic() > give_up_at:
            outcome.statuses[response.status_code] += 1
            return
        time.sleep(int(response.headers["retry-after-ms"]) / 1000)


def idle_within(service: Service, seconds: float) -> float:
    """How long it took until no ask was left in Redis and web's processes used no time. Fails after `seconds`."""
    began = time.monotonic()
    assert service.web is not None
    with Redis.from_url(service.valkey.url) as redis:
        service.wait_for(lambda: redis.xlen(keys.asks("fake")) == 0, "the lane to be empty", seconds)
        while True:
            before = _busy_ticks(service.web.pid)
            time.sleep(0.1)
            # Two hundredths of a second within a tenth: the loops' own beats.
            if _busy_ticks(service.web.pid) - before <= 2:
                break
            assert time.monotonic() < began + seconds, "web is still busy"
    return time.monotonic() - began


def _busy_ticks(pid: int) -> int:
    """Ticks of a process and its children, user and system."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0
    for process in (str(pid), *children):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total
