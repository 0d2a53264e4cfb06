"""Many workers, one Valkey, a model that takes no time: what an ask, a shard, a heartbeat and a deal cost in each process.

python -m bench.simulate [--parts workers beats deals] [--workers 1 2 4 8 16 32] [--web 1 2] [--seconds 4]

Workers are real processes, a few started at a time and more of them row by row. Rates say what this machine does with everything
on it, the clients too, and bend as soon as its cores are used up. The processor time that one ask or shard costs in each process
hardly depends on that: docs/scaling.md reckons from it how far one of each goes. What the processes use with nothing to do is
measured first and taken off.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from redis import Redis

from bench.ending import end_on_signals
from bench.lane import MODELS, processes
from bench.load import run
from bench.processes import MEGABYTE, cpu_seconds, resident_bytes
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

PARTS = ("workers", "beats", "deals")
MODEL = "null"
JOBS = "/v1/embeddings/jobs"
CLIENTS = 64
COSTS = ("web", "worker", "valkey", "client")
SHARD_ROWS = 64
SHARDS_PER_S = 200  # more than a machine does: the job is to last
# Processes that start use a whole core for seconds: all at once they would be late for each other.
STARTED_AT_ONCE = 2
START_S = 120  # of those
IDLE_S = 4.0  # processor time is counted in hundredths of a second


def workers(counts: Sequence[int], web: Sequence[int], seconds: float) -> None:
    """Idle, then questions of 64 clients, then a job of very small shards, with more and more workers."""
    heads = ("workers, web processes", "what", "each second", "p50 ms", *COSTS, "commands", "beside it")
    print(
        "\nCosts are milliseconds of processor, and commands of Valkey, for one of what a row names; of all workers together.\n"
    )
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    with tempfile.TemporaryDirectory() as directory:
        settings = {"models": MODELS, "max_shard_rows": SHARD_ROWS, "web_processes": web[0]}
        with running_service(Path(directory), **settings) as service, connect(service.valkey.url) as redis:
            for count in sorted(counts):
                grow(service, redis, count)
                Row(service, redis, f"{count}, {web[0]}").print_all(seconds)
            for processes_ in web[1:]:
                replace_web(service, processes_)
                Row(service, redis, f"{max(counts)}, {processes_}").print_all(seconds)


class Row:
    """The rows of one number of workers."""

    def __init__(self, service: Service, redis: Redis, name: str) -> None:
        self._service = service
        self._redis = redis
        self._name = name
        self._idle: dict[str, float] = {}

    def print_all(self, seconds: float) -> None:
        """In the order in which they need each other."""
        self._idle = self._print_idle(seconds)
        self._print_asks(seconds)
        self._print_shards(seconds)

    def _used(self) -> dict[str, float]:
        """So far, by process: seconds of processor; and Valkey's commands, those in scripts included."""
        used = {name: sum(map(cpu_seconds, find())) for name, find in processes(self._service).items()}
        stats: dict[str, Any] = self._redis.info("stats")
        return used | {"commands": stats["total_commands_processed"] / 1000}

    def _print_idle(self, seconds: float) -> dict[str, float]:
        before, began = self._used(), time.monotonic()
        time.sleep(max(IDLE_S, seconds))
        took = time.monotonic() - began
        idle = {name: (used - before[name]) / took for name, used in self._used().items()}
        pids = processes(self._service)
        sizes = {name: max(map(resident_bytes, pids[name]()), default=0) / MEGABYTE for name in ("web", "worker", "valkey")}
        memory = ", ".join(f"{name} {size:.0f} MB" for name, size in sizes.items())
        clients: dict[str, Any] = self._redis.info("clients")
        self._print("a second of nothing", 1, None, idle, f"{memory}, {clients['connected_clients']} connections")
        return idle

    def _print_asks(self, seconds: float) -> None:
        texts = [[text] for text in make_texts("short", 2000, CLIENTS)]
        run(self._service.url, texts[:200], CLIENTS, model=MODEL)
        before = self._used()
        load = run(self._service.url, texts, CLIENTS, model=MODEL, until_s=seconds)
        wrong = sum(load.statuses.values()) - load.statuses["200"]
        cost = self._cost(before, load.seconds, len(load.latencies))
        self._print("an ask", load.requests_per_s, load.percentile(50), cost, f"{wrong} errors" if wrong else "")

    def _print_shards(self, seconds: float) -> None:
        texts = make_texts("short", max(1, int(seconds * SHARDS_PER_S)) * SHARD_ROWS, 1)
        body = b"\n".join(orjson.dumps({"text": text}) for text in texts)
        with self._service.client() as client:
            job = client.post(JOBS, content=body, headers={"content-type": "application/x-ndjson"}).json()["id"]

            def done() -> int:
                return int(client.get(f"{JOBS}/{job}").json()["counts"]["completed"])

            self._service.wait_for(lambda: done() > 0, "the first shard")
            before, done_before, began = self._used(), done(), time.monotonic()
            # Each look reads every shard's counts: not too often.
            while (now := done()) < len(texts) and time.monotonic() < began + seconds:
                time.sleep(min(0.5, seconds / 4))
            took, shards = time.monotonic() - began, (now - done_before) / SHARD_ROWS
            cost = self._cost(before, took, shards)
            self._print(f"a shard of {SHARD_ROWS} rows", shards / took, None, cost, "the whole job" if now == len(texts) else "")
            client.post(f"{JOBS}/{job}/cancel")
            self._service.wait_for(lambda: not JobIndex(self._redis).in_flight(MODEL), "the cancelled job to leave")

    def _cost(self, before: dict[str, float], took_s: float, times: float) -> dict[str, float]:
        used = self._used()
        return {
            name: max(0.0, used[name] - before[name] - (self._idle[name] * took_s if name != "client" else 0)) / max(1.0, times)
            for name in used
        }

    def _print(self, what: str, rate: float, p50: float | None, cost: dict[str, float], beside: str) -> None:
        costs = " | ".join(f"{1000 * cost[name]:.2f}" for name in COSTS)
        latency = "-" if p50 is None else f"{p50:.1f}"
        print(
            f"| {self._name} | {what} | {rate:.1f} | {latency} | {costs} | {1000 * cost['commands']:.1f} | {beside} |", flush=True
        )


def grow(service: Service, redis: Redis, count: int) -> None:
    """Start workers, a few at a time, until so many are ready."""
    board = PresenceBoard(redis)

    def ready() -> int:
        return sum(MODEL in worker.models and worker.models[MODEL].state == "ready" for worker in board.workers())

    while len(service.workers) < count:
        for _ in range(min(STARTED_AT_ONCE, count - len(service.workers))):
            service.start_worker()
        service.wait_for(lambda: ready() >= len(service.workers), f"{len(service.workers)} workers", START_S)


def replace_web(service: Service, web_processes: int) -> None:
    """With one of another number of processes."""
    assert service.web is not None
    service.web.terminate()
    service.web.wait(60)
    service.environment["UMEKOMI_WEB_PROCESSES"] = str(web_processes)
    service.start_other_web()


def beats(counts: Sequence[int]) -> None:
    """What workers do once a second though nothing is asked; each looks at all the others."""
    print("\n| heartbeats: workers | worker | Valkey, ms of processor a beat | Valkey, % of a core |\n|---|---|---|---|")
    for count in counts:
        # Each keeps connections of its own, as the workers that it stands for do.
        with valkey() as server, connect(server.url, max_connections=50 + 8 * count) as redis:
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


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--web", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--beating", nargs="+", type=int, default=[1, 10, 100, 300])
    parser.add_argument("--shards", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    given = parser.parse_args()
    end_on_signals()
    parts: dict[str, Callable[[], None]] = {
        "workers": lambda: workers(given.workers, given.web, given.seconds),
        "beats": lambda: beats(given.beating),
        "deals": lambda: deals(given.shards),
    }
    for part in given.parts:
        parts[part]()


if __name__ == "__main__":
    main()
