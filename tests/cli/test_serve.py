from __future__ import annotations

import fcntl
import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.options import read_settings
from cli.serve import describe_missing, local_address, port_problem, wait_until_ready, welcome
from cli.terminal import Terminal
from shared.models import load_registry
from tests.support.api import FakeApi, Reply
from tests.support.commands import Run


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_said_before_anything_starts(run: Run, taken: int, tmp_path: Path) -> None:
    result = run("serve", "--data-dir", tmp_path, "--address", f"127.0.0.1:{taken}")

    assert result.exit_code == 1
    assert f"the port {taken} of 127.0.0.1 is taken" in result.stderr
    assert not (tmp_path / "valkey").exists()


def test_a_second_server_on_the_same_data_names_the_first(run: Run, taken: int, tmp_path: Path) -> None:
    with (tmp_path / "serve.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 4711, http://127.0.0.1:8080\n")
        lock.flush()

        result = run("serve", "--data-dir", tmp_path, "--address", f"127.0.0.1:{taken}")

    assert result.exit_code == 1
    assert f"already runs on the data directory {tmp_path} (process 4711, http://127.0.0.1:8080)" in result.stderr
    assert f"the port {taken} of 127.0.0.1 is taken" in result.stderr
    assert (tmp_path / "serve.lock").read_text() == "process 4711, http://127.0.0.1:8080\n"


def test_a_data_directory_that_cannot_be_made_is_a_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    result = run("serve", "--data-dir", tmp_path / "file" / "data")

    assert result.exit_code == 1
    assert "cannot be used: Not a directory" in result.stderr


@pytest.mark.parametrize(
    ("text", "part"), [("- name: x\n", ":1: x: parameters: "), ("", ":1: the file is empty"), (None, "cannot be read")]
)
def test_a_configuration_that_serves_nothing_starts_nothing(run: Run, tmp_path: Path, text: str | None, part: str) -> None:
    file = tmp_path / "models.yaml"
    if text is not None:
        file.write_text(text)

    result = run("serve", "--data-dir", tmp_path / "data", "--config-file", file)

    assert result.exit_code == 1
    assert part in result.stderr
    assert not (tmp_path / "data").exists()


def test_a_free_port_is_no_problem_also_right_after_its_use() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]

    assert port_problem(f"127.0.0.1:{port}") is None


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("127.0.0.1:0", "has no port"),
        ("192.0.2.1:8080", "cannot listen on 192.0.2.1:8080: "),
        ("no-such-host.invalid:8080", "cannot listen on no-such-host.invalid:8080: "),
    ],
)
def test_an_address_that_is_none_of_ours_is_a_problem(address: str, part: str) -> None:
    assert part in (port_problem(address) or "")


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1:80", "127.0.0.1:80"), ("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("box:80", "box:80")],
)
def test_what_listens_everywhere_is_reached_on_loopback(address: str, local: str) -> None:
    assert local_address(address) == local


def test_waiting_ends_when_the_api_says_ready_and_tells_what_is_missing(api: FakeApi) -> None:
    missing = Reply({"status": "not ready", "missing": ["the model m is not loaded yet", "storage is full"]}, 503)
    api.on("GET", "/readyz", missing, Reply({"status": "ready", "missing": []}))
    screen = io.StringIO()

    assert wait_until_ready(api.url.removeprefix("http://"), Terminal(screen), threading.Event())

    assert "Starting: the model m is not loaded yet; storage is full\n" in screen.getvalue()


def test_waiting_ends_when_told_to_stop() -> None:
    stopping = threading.Event()
    stopping.set()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))

        assert not wait_until_ready(f"127.0.0.1:{closed.getsockname()[1]}", Terminal(io.StringIO()), stopping)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", json.dumps({"missing": None}).encode()])
def test_a_no_without_reasons_is_still_a_no(body: bytes) -> None:
    assert describe_missing(body)


def test_the_curl_line_names_the_address_and_the_model(tmp_path: Path) -> None:
    settings = read_settings({"address": "0.0.0.0:9000", "data_dir": str(tmp_path)})

    text = welcome(settings, load_registry(settings), 3.2)

    assert (
        """  curl http://127.0.0.1:9000/v1/embeddings -H "Content-Type: application/json" """
        """-d '{"model": "all-MiniLM-L6-v2", "input": "Hello"}'\n"""
    ) in text


def test_keys_are_asked_for_and_never_printed(tmp_path: Path) -> None:
    settings = read_settings({"api_keys": "very-secret", "data_dir": str(tmp_path)})

    text = welcome(settings, load_registry(settings), 3.2)

    assert '-H "Authorization: Bearer $UMEKOMI_API_KEY"' in text
    assert "very-secret" not in text
