"""Clients that are slow, rude or malicious, on real sockets: none of them keeps the others waiting."""

from __future__ import annotations

import http.client
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import orjson
import pytest
import zstandard

from tests.support.valkey import Valkey, free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
# gunicorn as it is, but with less patience.
CODE = """
import web.patience
web.patience.ARRIVE_WITHIN_S = 1.0
web.patience.GRACE_S = 1.0
from gunicorn.app.wsgiapp import run
run()
"""
# More than the threads of a process with two places for questions.
MANY = 40
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
POST = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


class Server:
    """One gunicorn process that serves."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid

    @contextmanager
    def connection(self, sent: bytes) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(sent)
            yield connection

    def ask(self, sent: bytes) -> tuple[int, bytes]:
        with self.connection(sent) as connection:
            return answer(connection)

    def is_well(self) -> bool:
        return self.ask(HEALTH)[0] == 200

    @property
    def resident_bytes(self) -> int:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        status = "".join(Path(f"/proc/{child}/status").read_text() for child in children)
        return 1024 * sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def answer(connection: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


@pytest.fixture(scope="module")
def server(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory, port = tmp_path_factory.mktemp("web"), free_port()
    settings = {"redis_url": valkey.url, "data_dir": directory, "address": f"0.0.0.0:{port}", "web_threads": 2}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UMEKOMI_")}
    given = clean | {"PYTHONPATH": str(ROOT)} | {f"UMEKOMI_{name.upper()}": str(value) for name, value in settings.items()}
    log = directory / "web.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, "-c", str(ROOT / "web/gunicorn_conf.py")],
            env=given,
            stdout=sink,
            stderr=sink,
            cwd=directory,
        )
    server = Server(port, process.pid)

    def serves() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return server.is_well()
        except OSError:
            return False

    try:
        wait_until(serves, within_s=60)
        yield server
        process.terminate()
        assert process.wait(timeout=20) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
        # Others reach it, and it has no key.
        assert log.read_text().count("ANYBODY who reaches 0.0.0.0") == 1
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "half",
    [b"P", POST, POST + b"X-Slow: ", POST + b"Content-Length: 50\r\n\r\n{"],
    ids=["a byte", "some headers", "half a header", "half a small body"],
)
def test_half_sent_requests_hold_nobody_up_and_are_given_up(server: Server, half: bytes) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(server.connection(half)) for _ in range(MANY)]
        assert all(server.is_well() for _ in range(5))
        for connection in slow:
            status, body = answer(connection)
            assert (status, orjson.loads(body)["error"]["code"]) == (408, "request_timeout")
            assert connection.recv(1) == b""


def test_a_connection_on_which_nothing_comes_is_closed(server: Server) -> None:
    with server.connection(b"") as connection:
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "begun",
    [
        POST + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n{",
        POST + b"Content-Length: 100000\r\n\r\n{",
        b"POST /v1/embeddings/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n{",
    ],
    ids=["chunked", "large", "upload"],
)
def test_a_body_that_trickles_is_given_up(server: Server, begun: bytes) -> None:
    with server.connection(begun) as connection:
        while not select.select([connection], [], [], 0.1)[0]:
            connection.sendall(b" ")
        status, body = answer(connection)
    assert (status, orjson.loads(body)["error"]["code"]) == (408, "request_timeout")
    assert server.is_well()


def test_clients_that_never_close_hold_nobody_up(server: Server) -> None:
    with ExitStack() as stack:
        rude = [stack.enter_context(server.connection(HEALTH)) for _ in range(MANY)]
        assert all(answer(connection)[0] == 200 for connection in rude)
        assert server.is_well()


def test_a_client_that_has_said_all_is_answered(server: Server) -> None:
    with server.connection(HEALTH) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert answer(connection)[0] == 200


def test_a_body_cut_off_is_an_error_of_the_client(server: Server) -> None:
    with server.connection(POST + b"Content-Length: 50\r\n\r\n{") as connection:
        connection.shutdown(socket.SHUT_WR)
        status, body = answer(connection)
    assert (status, orjson.loads(body)["error"]["code"]) == (400, "incomplete_body")


def test_requests_one_behind_the_other_are_both_answered(server: Server) -> None:
    first = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.connection(first + HEALTH) as connection:
        received = b""
        while piece := connection.recv(2**16):
            received += piece
    assert received.count(b"HTTP/1.1 200 ") == 2


def test_a_head_without_end_is_refused(server: Server) -> None:
    with server.connection(POST) as connection:
        try:
            for _ in range(200):
                connection.sendall(b"X-Long: " + b"a" * 1000 + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert answer(connection)[0] == 431
    assert server.is_well()


def test_a_client_that_waits_for_leave_to_send_gets_it(server: Server) -> None:
    with server.connection(POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n") as connection:
        assert connection.recv(2**16).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"{}")
        assert answer(connection)[0] == 400


@pytest.mark.parametrize("path", [b"/v1/embeddings", b"/v1/embeddings/jobs"])
def test_a_bomb_is_a_small_thing(server: Server, path: bytes) -> None:
    bomb = zstandard.compress(b'{"input": "' + b"x" * 300_000_000 + b'"}', 1)
    head = (
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Encoding: zstd\r\nContent-Length: %d\r\n\r\n"
    )
    before = server.resident_bytes

    status, body = server.ask(head % (path, len(bomb)) + bomb)

    assert (status, orjson.loads(body)["error"]["code"]) == (413, "request_too_large")
    assert server.resident_bytes - before < 150 * 2**20
    assert server.is_well()
