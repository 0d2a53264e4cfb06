"""Faults injected into a running installation, and the account of it: nothing accepted may be lost, doubled or wrong."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import orjson
from redis import Redis
from redis.exceptions import RedisError

from tests.support.service import Service
from tests.support.texts import some_texts

JOBS = "/v1/embeddings/jobs"
# A text's vector is told by its words alone: the same model in this process gives what the service must give.
MODELS = """
- name: chaos
  backend: fake
  parameters:
    model: "fake?dimensions=16&seconds_per_token=0.00015"
"""
# Answers that an overloaded or crippled service may give; anything else is a fault of ours.
ALLOWED = {200, 429, 503}


@dataclass
class Account:
    """What happened."""

    faults: Counter[str] = field(default_factory=Counter)
    recoveries: dict[str, list[float]] = field(default_factory=dict)  # seconds until a question was answered again
    asks: Counter[str] = field(default_factory=Counter)
    longest_ask_s: float = 0.0
    wrong_answers: list[str] = field(default_factory=list)
    jobs: int = 0
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    orphans: list[str] = field(default_factory=list)

    def table(self) -> str:
        """For people."""
        lines = ["| fault | times | seconds to the next answer, median / longest |", "|---|---|---|"]
        for fault, times in sorted(self.faults.items()):
            took = sorted(self.recoveries.get(fault, [])) or [float("nan")]
            lines.append(f"| {fault} | {times} | {took[len(took) // 2]:.1f} / {took[-1]:.1f} |")
        lines.append(
            f"\n{self.jobs} jobs, {self.rows} rows: {self.lost} lost, {self.doubled} doubled, {self.wrong} wrong;"
            f" {len(self.orphans)} orphan files; questions {dict(self.asks)}, longest {self.longest_ask_s:.1f} s"
        )
        return "\n".join(lines)


class Chaos:
    """Drives one installation for a while. Everything random comes from one seed."""

    def __init__(self, service: Service, encode: Callable[[list[str]], np.ndarray], *, seed: int, disk: Path | None) -> None:  # type: ignore[type-arg]
        self._service = service
        self._encode = encode
        self._random = random.Random(seed)
        self._disk = disk  # mount point of a small file system that holds the storage
        self._stop = threading.Event()
        self._web = threading.Lock()
        self._texts: dict[str, list[str]] = {}  # of every accepted job
        self.account = Account()

    def run(self, seconds: float, *, rows: tuple[int, int]) -> Account:
        """Faults, jobs and questions for so long; then everything is healed, and the account is drawn up."""
        deadline = time.monotonic() + seconds
        with ThreadPoolExecutor(2) as pool:
            asking = pool.submit(self._ask_until_stopped)
            submitting = pool.submit(self._submit_until, deadline, rows)
            faults = self._faults()
            try:
                while time.monotonic() < deadline:
                    if not faults:
                        faults = self._faults()
                    self._inject(*faults.pop())
                    time.sleep(self._random.uniform(0.5, 2.0))
                submitting.result()
                self._service.wait_ready()
                self._wait_for_jobs()
            finally:
                self._stop.set()
            asking.result()
        self._check()
        return self.account

    # Faults

    def _faults(self) -> list[tuple[str, Callable[[], None]]]:
        """All of them in a random order, so that a short run meets each."""
        faults: list[tuple[str, Callable[[], None]]] = [
            ("worker killed", self._kill_worker),
            ("worker frozen", self._freeze_worker),
            ("FLUSHALL", self._flush),
            ("Valkey killed", self._kill_valkey),
            ("Valkey killed, its log lost", self._lose_valkey),
            ("web restarted", self._restart_web),
            ("web killed", self._kill_web),
            ("output cut short", self._leave_damaged_output),
        ]
        if self._disk is not None:
            faults.append(("disk full", self._fill_disk))
        self._random.shuffle(faults)
        return faults

    def _inject(self, name: str, fault: Callable[[], None]) -> None:
        fault()
        self.account.faults[name] += 1
        started = time.monotonic()
        self._service.wait_for(lambda: self._ask(0) == 200, f"a question to be answered after: {name}", 90)
        self.account.recoveries.setdefault(name, []).append(time.monotonic() - started)

    def _kill_worker(self) -> None:
        self._service.kill_worker(self._random.randrange(len(self._service.workers)))
        self._service.start_worker()

    def _freeze_worker(self) -> None:
        worker = self._random.choice(self._service.workers)
        worker.send_signal(signal.SIGSTOP)
        # Longer than its lease and its presence last: others take over what it held, and then it comes back.
        time.sleep(5)
        worker.send_signal(signal.SIGCONT)

    def _flush(self) -> None:
        with Redis.from_url(self._service.valkey.url) as redis, contextlib.suppress(RedisError):
            redis.flushall()

    def _kill_valkey(self) -> None:
        self._service.valkey.kill()
        time.sleep(self._random.uniform(0, 1))
        self._service.valkey.start()

    def _lose_valkey(self) -> None:
        self._service.valkey.kill()
        shutil.rmtree(self._service.valkey.directory / "appendonlydir", ignore_errors=True)
        self._service.valkey.start()

    def _restart_web(self) -> None:
        assert self._service.web is not None
        self._service.web.terminate()
        self._service.web.wait()
        self._service.start_web()

    def _kill_web(self) -> None:
        assert self._service.web is not None
        os.killpg(self._service.web.pid, signal.SIGKILL)
        self._service.web.wait()
        self._service.start_web()

    def _leave_damaged_output(self) -> None:
        for job_id in self._texts:
            directory = self._service.storage / "jobs" / job_id
            missing = [path.name for path in (directory / "input").iterdir() if not (directory / "output" / path.name).exists()]
            if missing and not (directory / "done.json").exists():
                (directory / "output").mkdir(exist_ok=True)
                with contextlib.suppress(FileExistsError), (directory / "output" / max(missing)).open("xb") as output:
                    output.write(b"PAR1 and then the power went")
                return

    def _fill_disk(self) -> None:
        assert self._disk is not None
        ballast = self._disk / "ballast"

        def is_noticed() -> bool:
            # Whoever was writing when the disk filled up takes its half of a file back: what that frees is filled too.
            with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
                for size in (65536, 4096):
                    with contextlib.suppress(OSError):
                        while file.write(bytes(size)):
                            pass
            return "full" in httpx.get(f"{self._service.url}/readyz", timeout=5).text

        self._service.wait_for(is_noticed, "/readyz to say that storage is full", 30)
        ballast.unlink()

    # Clients

    def _ask(self, number: int) -> int:
        texts = [f"question {number}", f"another {number} of the same client"]
        started = time.monotonic()
        answer = httpx.post(f"{self._service.url}/v1/embeddings", json={"input": texts}, timeout=40)
        self.account.longest_ask_s = max(self.account.longest_ask_s, time.monotonic() - started)
        self.account.asks[str(answer.status_code)] += 1
        if answer.status_code == 200:
            vectors = np.array([one["embedding"] for one in answer.json()["data"]], dtype=np.float32)
            if not np.allclose(vectors, self._encode(texts), atol=1e-5):
                self.account.wrong_answers.append(f"question {number}: wrong vectors")
        elif answer.status_code not in ALLOWED:
            self.account.wrong_answers.append(f"question {number}: {answer.status_code} {answer.text[:200]}")
        return answer.status_code

    def _ask_until_stopped(self) -> None:
        number = 1
        while not self._stop.wait(0.05):
            number += 1
            try:
                self._ask(number)
            except httpx.TransportError as error:  # web is being restarted
                self.account.asks[type(error).__name__] += 1

    def _submit_until(self, deadline: float, rows: tuple[int, int]) -> None:
        chosen = random.Random(self._random.random())
        while time.monotonic() < deadline or not self._texts:
            count = chosen.randint(*rows)
            self._submit(some_texts(count, chosen.randrange(10**9), (2, 30)))
            self._stop.wait(chosen.uniform(1, 4))

    def _submit(self, texts: list[str]) -> None:
        """As a client that wants it done: the same key until it is accepted."""
        key = f"chaos-{len(self._texts)}-{texts[0]}".replace(" ", "")[:200].encode("ascii", "ignore").decode()
        body = b"\n".join(orjson.dumps({"id": f"doc-{n}", "text": text}) for n, text in enumerate(texts))
        headers = {"content-type": "application/x-ndjson", "idempotency-key": key}
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                answer = httpx.post(f"{self._service.url}{JOBS}", content=body, headers=headers, timeout=40)
            except httpx.TransportError:
                time.sleep(0.2)
                continue
            if answer.status_code == 202:
                self._texts[answer.json()["id"]] = texts
                return
            assert answer.status_code in ALLOWED, answer.text
            time.sleep(0.5)
        raise AssertionError("a job was not accepted for two minutes")

    # The account

    def _wait_for_jobs(self) -> None:
        for job_id in self._texts:
            self._service.wait_for(
                lambda job_id=job_id: (
                    httpx.get(f"{self._service.url}{JOBS}/{job_id}", timeout=10).json()["status"] == "completed"
                ),  # type: ignore[misc]
                f"job {job_id} to complete",
                180,
            )

    def _check(self) -> None:
        account = self.account
        for job_id, texts in self._texts.items():
            account.jobs += 1
            account.rows += len(texts)
            job = httpx.get(f"{self._service.url}{JOBS}/{job_id}").json()
            content = httpx.get(f"{self._service.url}{JOBS}/{job_id}/results", params={"format": "jsonl"}, timeout=60).content
            rows = [orjson.loads(line) for line in content.splitlines()]
            seen = Counter(row["id"] for row in rows)
            account.lost += sum(f"doc-{n}" not in seen for n in range(len(texts)))
            account.doubled += sum(times - 1 for times in seen.values())
            expected = self._encode(texts)
            for row in rows:
                number = int(row["id"].removeprefix("doc-"))
                if "embedding" not in row or not np.allclose(row["embedding"], expected[number], atol=1e-5):
                    account.wrong += 1
            if job["counts"]["completed"] != len(texts) or job["counts"]["total"] != len(texts):
                account.wrong_answers.append(f"{job_id}: counts {job['counts']} of {len(texts)} rows")
        account.orphans = self._orphans()

    def _orphans(self) -> list[str]:
        """Files that no accepted job owns; temporary ones of killed processes are swept by age, and not counted."""
        found = []
        for path in (self._service.storage / "jobs").rglob("*"):
            job_id, *rest = path.relative_to(self._service.storage / "jobs").parts
            owned = job_id in self._texts and rest[:1] in ([], ["job.json"], ["done.json"], ["input"], ["output"])
            if path.is_file() and not owned:
                found.append(str(path.relative_to(self._service.storage)))
        return found


@contextlib.contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[Path | None]:
    """A file system of its own that can be filled; None where mounting is not allowed."""
    directory.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        yield None
        return
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=False, capture_output=True)


@contextlib.contextmanager
def installation(directory: Path, *, workers: int, megabytes: int) -> Iterator[tuple[Service, Path | None]]:
    """A service whose storage lies on a small disk, quick to notice what died."""
    with small_disk(directory / "disk", megabytes) as disk:
        service = Service(
            directory / "service",
            models=MODELS,
            storage_url=str((disk or directory) / "storage"),
            shard_seconds=0.5,
            lease_s=3,
            resend_after_s=4,
            reconcile_interval_s=1,
            interactive_timeout_s=20,
        )
        try:
            service.start(workers)
            yield service, disk
        finally:
            for worker in service.workers:
                with contextlib.suppress(ProcessLookupError):
                    worker.send_signal(signal.SIGCONT)
            service.stop()


def expected_vectors(texts: list[str]) -> np.ndarray:  # type: ignore[type-arg]
    """What the model of MODELS gives, without its slowness."""
    from shared.models import ModelConfig, ModelSource, Parameters
    from worker.backends import LoadOptions, load_backend

    config = ModelConfig(name="chaos", backend="fake", parameters=Parameters(model="fake?dimensions=16"))
    backend = load_backend(config, ModelSource(), LoadOptions(device="cpu", threads=1))
    return backend.embed(backend.tokenize(texts))
