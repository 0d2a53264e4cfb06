"""A closed-loop load generator: so many clients, each sends its next request when its last one is answered."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson


@dataclass(slots=True)
class Load:
    """What came of it. Latencies in ms, of the answered requests."""

    seconds: float = 0.0
    texts: int = 0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def requests_per_s(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def texts_per_s(self) -> float:
        return self.texts / self.seconds

    def percentile(self, percent: int) -> float:
        """ms."""
        if len(self.latencies) < 2:
            return self.latencies[0] if self.latencies else float("nan")
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[percent - 1]


async def drive(url: str, batches: Sequence[Sequence[str]], clients: int, *, model: str, until_s: float | None = None) -> Load:
    """Send every batch once, or as many as `until_s` seconds allow, from `clients` clients on kept-alive connections."""
    bodies = [
        orjson.dumps({"model": model, "input": list(batch) if len(batch) > 1 else batch[0], "encoding_format": "base64"})
        for batch in batches
    ]
    load = Load()
    numbers = iter(range(10**9 if until_s else len(bodies)))
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=300)
    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        started = time.perf_counter()

        async def client() -> None:
            for number in numbers:
                if until_s and time.perf_counter() - started > until_s:
                    return
                sent_at = time.perf_counter()
                try:
                    async with session.post(f"{url}/v1/embeddings", data=bodies[number % len(bodies)]) as answer:
                        await answer.read()
                        status = str(answer.status)
                except (aiohttp.ClientError, TimeoutError) as error:
                    status = type(error).__name__
                load.statuses[status] += 1
                if status == "200":
                    load.latencies.append((time.perf_counter() - sent_at) * 1000)
                    load.texts += len(batches[number % len(batches)])

        await asyncio.gather(*(client() for _ in range(clients)))
        load.seconds = time.perf_counter() - started
    return load


def run(*arguments: Any, **options: Any) -> Load:
    """`drive`, from code that is not asynchronous."""
    return asyncio.run(drive(*arguments, **options))
