"""Many workers, one Valkey, a model that takes no time: what an ask, a shard, a heartbeat and a deal cost in each process.

python -m bench.simulate [--parts asks shards beats deals] [--workers 1 2 4] [--web 1 2] [--seconds 4]

Rates say what this machine does with everything on it, the clients too, and bend as soon as its cores are used up. The processor
time that one ask or shard costs in each process hardly depends on that: docs/scaling.md reckons from it how far one of each goes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from redis import Redis

from bench.lane import MODELS, measure, processes
from bench.processes import cpu_seconds
from bench.texts import make_texts
from shared import keys
from shared.connections import connect
from shared.interactive import AskServer
from shared.jobs.dispatch import deal
from shared.jobs.index import JobIndex
from shared.jobs.job import Job, JobView, Marks
from shared.presence import ModelPresence, PresenceBoard, WorkerPresence
from shared.records import ShardCounts
from tests.support.service import Service, running_service
from tests.support.valkey import Valkey

PARTS = ("asks", "shards", "beats", "deals")
MODEL = "null"
JOBS = "/v1/embeddings/jobs"
CLIENTS = 64
SHARD_ROWS = 64


def asks(workers: Sequence[int], web: Sequence[int], seconds: float) -> None:
    """Questions of 64 clients, one short text each."""
    print("\n| asks: workers, web processes | asks/s | p50 ms | web | worker | Valkey | client, ms of processor an ask |")
    print("|---|---|---|---|---|---|---|")
    for web_processes in web:
        for count in workers if web_processes == web[0] else workers[-1:]:
            with installation(count, web_processes=web_processes) as service:
                load, cost = measure(service.url, processes(service), CLIENTS, seconds)
            figures = " | ".join(f"{cost[name]:.2f}" for name in ("web", "worker", "valkey", "client"))
            wrong = sum(load.statuses.values()) - load.statuses["200"]
            name = f"{count}, {web_processes}" + (f" ({wrong} errors)" if wrong else "")
            print(f"| {name} | {load.requests_per_s:.0f} | {load.percentile(50):.1f} | {figures} |", flush=True)


def shards(workers: Sequence[int], seconds: float) -> None:
    """A job of very small shards: what is around the model."""
    print(f"\n| shards of {SHARD_ROWS} rows: workers | shards/s | worker | Valkey, ms of processor a shard |\n|---|---|---|---|")
    texts = make_texts("short", int(seconds * 100) * SHARD_ROWS, 1)
    body = b"\n".join(orjson.dumps({"text": text}) for text in texts)
    for count in workers:
        with installation(count, max_shard_rows=SHARD_ROWS) as service, service.client() as client:
            pids = {name: find for name, find in processes(service).items() if name in ("worker", "valkey")}
            job = client.post(JOBS, content=body, headers={"content-type": "application/x-ndjson"}).json()["id"]
            before = {name: sum(map(cpu_seconds, find())) for name, find in pids.items()}
            done_before, began = client.get(f"{JOBS}/{job}").json()["counts"]["completed"], time.perf_counter()
            deadline, answer = began + seconds, {}
            while time.perf_counter() < deadline and answer.get("status") != "completed":
                time.sleep(0.2)
                answer = client.get(f"{JOBS}/{job}").json()
            took, done = time.perf_counter() - began, (answer["counts"]["completed"] - done_before) / SHARD_ROWS
            spent = {name: sum(map(cpu_seconds, find())) - before[name] for name, find in pids.items()}
            client.post(f"{JOBS}/{job}/cancel")
        cost = " | ".join(f"{1000 * spent[name] / max(1, done):.2f}" for name in ("worker", "valkey"))
        print(f"| {count} | {done / took:.1f} | {cost} |", flush=True)


def beats(counts: Sequence[int]) -> None:
    """What workers do once a second though nothing is asked; each looks at all the others."""
    print("\n| heartbeats: workers | worker | Valkey, ms of processor a beat | Valkey, % of a core |\n|---|---|---|---|")
    for count in counts:
        with valkey() as server, connect(server.url) as redis:
            board, servers = PresenceBoard(redis), [AskServer(redis, f"w{number}") for number in range(count)]
            for one in servers:
                one.take([MODEL], 1, block_s=0.001)  # makes the lane and its readers
                board.announce(presence(one.worker_id))
                redis.xgroup_createconsumer(keys.asks(MODEL), keys.ASK_GROUP, one.worker_id)
            before, mine, times = cpu_seconds(pid(server)), time.process_time(), max(1, 300 // count)

            for one in servers * times:
                board.announce(presence(one.worker_id))
                alive = {worker.id for worker in board.workers()}
                one.take_over([MODEL], alive.__contains__)

            rounds = count * times
            own, theirs = time.process_time() - mine, cpu_seconds(pid(server)) - before
            share = 100 * theirs / rounds * count
            print(f"| {count} | {1000 * own / rounds:.2f} | {1000 * theirs / rounds:.2f} | {share:.1f} |", flush=True)


def deals(sizes: Sequence[int]) -> None:
    """What the leader does after each shard, by the shards of the job, when half of them are done."""
    heads = ("deals: shards of the job, workers", "leader", "Valkey, ms of processor a deal", "manifest read", "all read, ms")
    print(f"\n| {' | '.join(heads)} |")
    print("|---|---|---|---|---|")
    for size in sizes:
        for workers in (1, 100):
            with valkey() as server, connect(server.url, timeout_s=30) as redis:
                print(f"| {size:,}, {workers} | {_deal(redis, pid(server), size, room=5 * workers)} |", flush=True)


def _deal(redis: Redis, server: int, size: int, room: int, times: int = 500) -> str:
    index, half = JobIndex(redis), size // 2
    job = Job(id="job_1", owner="", model=MODEL, created_at=1.0, shards=(SHARD_ROWS,) * size)
    committed = ShardCounts(rows=SHARD_ROWS, failed=0, truncated=0, tokens=640, started_at=1.0, finished_at=2.0)
    index.put(JobView(job=job, marks=Marks(), committed=dict.fromkeys(range(half), committed)))
    # As it stands while the job runs: everything that may be in flight is.
    index.sent(MODEL, [("job_1", half + number) for number in range(room)], time.time() + 600, {"job_1": 1.0})
    before, mine = cpu_seconds(server), time.process_time()
    for number in range(times):
        index.committed("job_1", half + number, committed)
        redis.zrem(keys.in_flight(MODEL), f"job_1/{half + number}")
        in_flight = index.in_flight(MODEL)
        wanted = room - len(in_flight)
        dealt = deal(index.for_dealing(index.running(), MODEL, in_flight, wanted), wanted)
        index.sent(MODEL, dealt.sends, time.time() + 600, dealt.positions)
    own, theirs = time.process_time() - mine, cpu_seconds(server) - before
    read = []
    for look in (index.glance, index.view):
        began = time.process_time()
        assert look("job_1") is not None
        read.append(f"{1000 * (time.process_time() - began):.1f}")
    return " | ".join([f"{1000 * own / times:.2f}", f"{1000 * theirs / times:.2f}", *read])


def presence(worker_id: str) -> WorkerPresence:
    """Of a worker that serves one model."""
    models = {MODEL: ModelPresence(state="ready", dimensions=384, max_tokens=512, dtype="float16", tokens_per_s=1e6)}
    return WorkerPresence(id=worker_id, host="h", pid=1, device="cuda", started_at=1.0, shards_at_once=3, models=models)


class valkey:  # noqa: N801 - a context manager
    """A server alone."""

    def __enter__(self) -> Valkey:
        self._directory = tempfile.TemporaryDirectory()
        self._server = Valkey(Path(self._directory.name), append_only=True)
        self._server.start()
        return self._server

    def __exit__(self, *_: Any) -> None:
        self._server.kill()
        self._directory.cleanup()


def pid(server: Valkey) -> int:
    """Of a server that runs."""
    assert server.process is not None
    return server.process.pid


class installation:  # noqa: N801 - a context manager
    """Real processes with the stub model, all workers ready."""

    def __init__(self, workers: int, **settings: Any) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self._running = running_service(Path(self._directory.name) / uuid.uuid4().hex, workers, models=MODELS, **settings)
        self._workers = workers

    def __enter__(self) -> Service:
        service = self._running.__enter__()
        with Redis.from_url(service.valkey.url) as redis:
            board = PresenceBoard(redis)
            service.wait_for(lambda: len(board.workers()) == self._workers, "every worker", 120)
        return service

    def __exit__(self, *error: Any) -> None:
        self._running.__exit__(*error)
        self._directory.cleanup()


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--web", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--beating", nargs="+", type=int, default=[1, 10, 100, 300])
    parser.add_argument("--shards", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    given = parser.parse_args()
    run: dict[str, Callable[[], None]] = {
        "asks": lambda: asks(given.workers, given.web, given.seconds),
        "shards": lambda: shards(given.workers, given.seconds),
        "beats": lambda: beats(given.beating),
        "deals": lambda: deals(given.shards),
    }
    for part in given.parts:
        run[part]()


if __name__ == "__main__":
    main()
