"""The web process as it is run: real gunicorn, its own configuration, sockets."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import ThreadWorker

from tests.support.valkey import Valkey, free_port
from web import gunicorn_worker
from web.gunicorn_worker import ApiWorker
from web.patience import PatientSocket

ROOT = Path(__file__).parents[2]
JOBS = "/v1/embeddings/jobs"


def environment(valkey: Valkey, directory: Path, **settings: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UMEKOMI_")}
    return clean | {
        "PYTHONPATH": str(ROOT),
        "UMEKOMI_REDIS_URL": valkey.url,
        "UMEKOMI_DATA_DIR": str(directory),
        **{f"UMEKOMI_{name.upper()}": value for name, value in settings.items()},
    }


@pytest.fixture(scope="module")
def port(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A gunicorn that serves."""
    directory = tmp_path_factory.mktemp("web")
    port = free_port()
    log = directory / "web.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "web/gunicorn_conf.py")],
            env=environment(valkey, directory, address=f"127.0.0.1:{port}", max_request_bytes="100000", web_threads="8"),
            stdout=sink,
            stderr=sink,
            cwd=directory,
        )
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if ask(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")[0] == 200:
                break
        except OSError:
            time.sleep(0.1)
    yield port
    process.terminate()
    assert process.wait(timeout=20) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def ask(port: int, raw: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Bytes as they are, and the response to them."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(raw)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.headers, response.read()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"G@T / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: magic\r\n\r\n", 400),
        (b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n", 400),
        (b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n", 413),
    ],
)
def test_malformed_http_gets_openais_error_body(port: int, raw: bytes, status: int) -> None:
    found, headers, body = ask(port, raw)
    assert (found, headers["Content-Type"]) == (status, "application/json")
    assert set(orjson.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert headers["x-request-id"]


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def test_a_chunked_upload_becomes_a_job(port: int) -> None:
    head = b"POST /v1/embeddings/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    pieces = [b'{"text": "o', b'ne"}\n{"te', b'xt": "two"}\n']
    status, headers, body = ask(port, head + b"".join(map(chunk, pieces)) + b"0\r\n\r\n")
    job = orjson.loads(body)
    assert (status, job["counts"]["total"]) == (202, 2)
    assert headers["Location"] == f"{JOBS}/{job['id']}"
    status, _, body = ask(port, f"GET {JOBS}/{job['id']} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert (status, orjson.loads(body)["status"]) == (200, "queued")


def test_a_body_over_the_limit_is_refused_while_it_is_read(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        # Never ended: the answer must come without the end.
        for _ in range(20):
            connection.sendall(chunk(b"x" * 100_000))
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 413
        assert orjson.loads(response.read())["error"]["code"] == "request_too_large"


def test_requests_sent_without_waiting_for_answers_do_not_pile_up_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[object] = []
    monkeypatch.setattr(ThreadWorker, "enqueue_req", lambda _self, conn: taken.append(conn))
    worker = ApiWorker.__new__(ApiWorker)
    worker._arriving, worker._closing, worker.cfg = {}, {}, SimpleNamespace(is_ssl=False)
    ours, theirs = socket.socketpair()
    sock = PatientSocket.of(ours)
    unreader = SocketUnreader(sock)
    conn = SimpleNamespace(initialized=True, sock=sock, parser=SimpleNamespace(unreader=unreader))
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    with sock, theirs:
        theirs.sendall(request * 3000)
        worker.enqueue_req(conn)
        received = len(unreader.buf.getvalue())
        for _ in range(10):  # the parser takes one request, and its connection comes back
            assert unreader.read(len(request)) == request
            theirs.sendall(request)
            worker.enqueue_req(conn)
        assert len(taken) == 11
        assert len(unreader.buf.getvalue()) == received - 10 * len(request)


def test_a_connection_that_was_promised_is_kept_however_long_its_thread_waits_for_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gunicorn_worker, "DRAIN_WITHIN_S", -1.0)  # the time was over before the body was looked at
    ours, theirs = socket.socketpair()
    with PatientSocket.of(ours) as sock, theirs:
        parser = RequestParser(Config(), sock, ("127.0.0.1", 1))
        conn = SimpleNamespace(sock=sock, parser=parser)
        worker = ApiWorker.__new__(ApiWorker)
        theirs.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
        next(parser)
        assert worker._keepalive_after(conn, keepalive=True)
        assert not worker._keepalive_after(conn, keepalive=False)

        theirs.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nbody")
        next(parser)
        assert not worker._keepalive_after(conn, keepalive=True)  # who sends the rest at leisure is not waited for


def test_a_client_that_hangs_up_leaves_the_server_well(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"POST /v1/embeddings/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{")
    assert ask(port, b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")[0] == 200


def test_the_web_process_loads_no_model_library_and_nothing_of_the_worker(valkey: Valkey, tmp_path: Path) -> None:
    code = (
        "import sys, web.wsgi; from web.parts import EXTENSION; web.wsgi.app.extensions[EXTENSION].close();"
        "print(sorted({name.partition('.')[0] for name in sys.modules}"
        " & {'torch', 'transformers', 'sentence_transformers', 'tokenizers', 'worker', 'celery', 'kombu', 'cli'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(valkey, tmp_path), capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_stop_ends_event_streams_at_once(valkey: Valkey, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "web.log"
    given = environment(valkey, tmp_path, address=f"127.0.0.1:{port}", web_threads="3", interactive_timeout_s="600")
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "web/gunicorn_conf.py")],
            env=given,
            stdout=sink,
            stderr=sink,
            cwd=tmp_path,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline, log.read_text()
            try:
                ask(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                break
            except OSError:
                time.sleep(0.1)
        body = orjson.dumps({"input": ["text"]})
        head = b"POST /v1/embeddings/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        job = orjson.loads(ask(port, head % len(body) + body)[2])
        request = f"GET {JOBS}/{job['id']}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(request)
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert response.headers["Content-Type"].startswith("text/event-stream")
            assert b"retry" in response.readline()
            while b"data: " not in response.readline():
                pass
            process.terminate()
            # To the end of the stream, which is not so far away that it had to be kept alive.
            rest = response.read()
            assert (b"event: done" in rest, b"keep-alive" in rest) == (False, False)
        assert process.wait(timeout=15) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def test_a_stop_serves_whoever_is_connected_and_lets_nobody_else_in(valkey: Valkey, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "web.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "web/gunicorn_conf.py")],
            env=environment(valkey, tmp_path, address=f"127.0.0.1:{port}"),
            stdout=sink,
            stderr=sink,
            cwd=tmp_path,
        )
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    try:
        deadline = time.monotonic() + 60
        while b"200 OK" not in _answer_to(port, request):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        with (
            socket.create_connection(("127.0.0.1", port), timeout=20) as fresh,
            socket.create_connection(("127.0.0.1", port), timeout=20) as kept,
        ):
            kept.sendall(request)
            before = b""
            while not before.endswith(b"}"):  # head and body may come apart
                before += kept.recv(65_536)
            assert b"keep-alive" in before

            process.terminate()
            while _answer_to(port, request):  # until nobody listens
                assert time.monotonic() < deadline, log.read_text()

            # Both get their answer, and are told that it was the last.
            for connection in (fresh, kept):
                connection.sendall(request)
                answer = connection.recv(65_536)
                assert b"200 OK" in answer
                assert b"connection: close" in answer.lower()
        assert process.wait(timeout=15) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def _answer_to(port: int, request: bytes) -> bytes:
    """b"" if nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(request)
            return connection.recv(65_536)
    except (ConnectionRefusedError, ConnectionResetError):
        return b""
