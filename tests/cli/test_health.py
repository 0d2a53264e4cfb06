"""The health checks that containers run: exit codes, and what counts as healthy."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from redis import Redis

from cli import health
from cli.health import main
from shared.presence import ModelPresence, ModelState, PresenceBoard, WorkerPresence
from tests.support.valkey import free_port


class Healthz(BaseHTTPRequestHandler):
    """Answers /healthz with the server's status, and counts nothing else as healthy."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Healthz]]:
    """A server on the port that UMEKOMI_ADDRESS names; its status can be set."""
    handler = type("Healthz", (Healthz,), {})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, name="healthz")
    thread.start()
    monkeypatch.setenv("UMEKOMI_ADDRESS", f"0.0.0.0:{server.server_port}")
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def board(redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> PresenceBoard:
    monkeypatch.setenv("UMEKOMI_REDIS_URL", redis_url)
    return PresenceBoard(redis)


def presence(host: str, *states: ModelState) -> WorkerPresence:
    models = {f"m{number}": ModelPresence(state=state) for number, state in enumerate(states)}
    started_at = time.time()
    return WorkerPresence(id=f"{host}-1", host=host, pid=1, device="cpu", started_at=started_at, shards_at_once=1, models=models)


def test_a_web_that_answers_is_healthy_also_when_it_listens_on_every_interface(web: type[Healthz]) -> None:
    assert main(["web"]) == 0


def test_a_web_that_fails_is_not_healthy(web: type[Healthz], capsys: pytest.CaptureFixture[str]) -> None:
    web.status = 500
    assert main(["web"]) == 1
    assert "/healthz" in capsys.readouterr().err


def test_a_web_that_does_not_listen_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEKOMI_ADDRESS", f"127.0.0.1:{free_port()}")
    assert main(["web"]) == 1


def test_the_environment_s_proxy_is_not_asked(web: type[Healthz], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert main(["web"]) == 0


def test_a_worker_that_renewed_its_presence_is_healthy(board: PresenceBoard) -> None:
    board.announce(presence(socket.gethostname()))
    assert main(["worker"]) == 0


def test_a_worker_without_presence_is_not_healthy_whoever_else_lives(
    board: PresenceBoard, capsys: pytest.CaptureFixture[str]
) -> None:
    board.announce(presence("another-host"))
    assert main(["worker"]) == 1
    assert socket.gethostname() in capsys.readouterr().err


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["ready", "ready"], 0),
        (["ready", "available", "failed"], 0),
        (["ready", "loading"], 1),
        (["ready", "downloading"], 1),
        (["failed"], 1),
        ([], 1),
    ],
)
def test_a_worker_is_ready_once_its_models_are(board: PresenceBoard, states: list[ModelState], code: int) -> None:
    board.announce(presence("another-host", "ready"))
    board.announce(presence(socket.gethostname(), *states))
    assert main(["worker-ready"]) == code


def test_a_worker_is_not_blamed_for_a_redis_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEKOMI_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    assert main(["worker"]) == 0


def test_a_name_that_does_not_resolve_in_time_is_a_redis_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = threading.Event()

    def resolve(*_: object, **__: object) -> None:
        resolved.wait()
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(health, "TIMEOUT_S", 0.1)
    monkeypatch.setenv("UMEKOMI_REDIS_URL", "redis://valkey:6379/0")
    assert main(["worker"]) == 0
    resolved.set()


def test_a_wrong_call_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["valkey"]) == 2
    assert "usage" in capsys.readouterr().err
