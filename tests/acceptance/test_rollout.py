"""A new version is rolled out under load: workers and web processes are replaced one by one, and no client sees an error."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from redis import Redis

from shared.presence import PresenceBoard
from tests.support.balancer import Balancer
from tests.support.chaos import MODELS, expected_vectors
from tests.support.service import Service, running_service
from tests.support.texts import some_texts
from tests.support.waiting import wait_until

JOBS = "/v1/embeddings/jobs"
MODEL = "chaos"
CLIENTS = 6
# Between two questions of a client, so that the two cores of a small machine have time to start processes.
PAUSE_S = 0.02
QUESTIONS = some_texts(64, 1, (2, 10))
VECTORS = expected_vectors(QUESTIONS)


class Load:
    """Clients on kept-alive connections that ask one question after the other. None of them tries anything twice."""

    def __init__(self) -> None:
        self.answered = Counter[int]()  # by client
        self.errors: list[str] = []
        self._stopping = threading.Event()

    @contextmanager
    def on(self, url: str) -> Iterator[Load]:
        threads = [threading.Thread(target=self._ask, args=(url, number)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            self.goes_on()
            yield self
            self.goes_on()
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()
        assert self.errors == []

    def goes_on(self) -> None:
        """Until every client was answered a few times more: from here on, too, it works."""
        before = self.answered.copy()
        wait_until(lambda: self.errors or all(self.answered[number] >= before[number] + 5 for number in range(CLIENTS)), 30)

    def _ask(self, url: str, number: int) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            turn = number
            while not self._stopping.wait(PAUSE_S):
                turn = (turn + 1) % len(QUESTIONS)
                try:
                    answer = client.post("/v1/embeddings", json={"model": MODEL, "input": QUESTIONS[turn]})
                    if answer.status_code != 200:
                        self.errors.append(f"{answer.status_code} {answer.text}")
                    elif not np.allclose(answer.json()["data"][0]["embedding"], VECTORS[turn], atol=1e-5):
                        self.errors.append("a wrong vector")
                except httpx.HTTPError as error:
                    self.errors.append(f"{type(error).__name__}: {error}")
                self.answered[number] += 1


@pytest.fixture(scope="module")
def rolling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    options = {"shard_seconds": 0.5, "lease_s": 3, "resend_after_s": 5, "reconcile_interval_s": 1, "web_processes": 2}
    with running_service(tmp_path_factory.mktemp("rolling"), models=MODELS, **options) as service:
        yield service


def ready_workers(service: Service) -> set[int]:
    with Redis.from_url(service.valkey.url) as redis:
        return {worker.pid for worker in PresenceBoard(redis).workers() if worker.models[MODEL].state == "ready"}


def children(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def submit(service: Service, texts: list[str]) -> str:
    body = b"\n".join(orjson.dumps({"id": str(number), "text": text}) for number, text in enumerate(texts))
    answer = httpx.post(f"{service.url}{JOBS}", content=body, headers={"content-type": "application/x-ndjson"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def completed(service: Service, job: str) -> int:
    return int(httpx.get(f"{service.url}{JOBS}/{job}").json()["counts"]["completed"])


def test_workers_are_replaced_under_load_and_nothing_fails_or_is_lost(rolling: Service) -> None:
    texts = some_texts(600, 2)
    with Load().on(rolling.url) as load:
        old, new = rolling.workers.pop(), rolling.start_worker()
        rolling.wait_for(lambda: new.pid in ready_workers(rolling), "the new worker to be ready")
        job = submit(rolling, texts)
        rolling.wait_for(lambda: 0 < completed(rolling, job) < len(texts), "the job to be under way")
        old.send_signal(signal.SIGTERM)
        assert old.wait(30) == 0, rolling.logs()
        load.goes_on()
        rolling.wait_for(lambda: httpx.get(f"{rolling.url}{JOBS}/{job}").json()["status"] == "completed", "the job to complete")

    content = httpx.get(f"{rolling.url}{JOBS}/{job}/results", params={"format": "jsonl"}).content
    rows = [orjson.loads(line) for line in content.splitlines()]
    assert [row["id"] for row in rows] == [str(number) for number in range(len(texts))]
    assert np.allclose([row["embedding"] for row in rows], expected_vectors(texts), atol=1e-5)


def test_a_reload_of_gunicorn_under_load_fails_nobody(rolling: Service) -> None:
    assert rolling.web is not None
    before = children(rolling.web.pid)
    with Load().on(rolling.url):
        rolling.web.send_signal(signal.SIGHUP)
        rolling.wait_for(lambda: not before & children(rolling.web.pid), "the old processes to be gone")  # type: ignore[union-attr]


def test_instances_behind_a_load_balancer_are_replaced_under_load_and_fail_nobody(rolling: Service) -> None:
    assert rolling.web is not None
    old = rolling.web
    with Balancer().running() as balancer:
        balancer.targets = [rolling.port]
        with Load().on(balancer.url) as load:
            new_port = rolling.start_other_web()
            # As its pre-stop hook has it: the old one goes when it gets no new connections any more.
            balancer.targets = [new_port]
            load.goes_on()
            old.send_signal(signal.SIGTERM)
            assert old.wait(30) == 0, rolling.logs()
