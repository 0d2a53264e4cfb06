"""When a request is whole, and when a client has had its time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from web import patience
from web.patience import SMALL_BODY_BYTES, PatientSocket, is_whole

POST = b"POST / HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("received", "whole"),
    [
        (b"", False),
        (b"GET", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", True),
        (POST + b"Content-Length: 3\r\n\r\nab", False),
        (POST + b"Content-Length: 3\r\n\r\nabc", True),
        (POST + b"content-LENGTH:3\r\n\r\nabcd", True),
        (POST + b"Content-Length: %d\r\n\r\n" % (SMALL_BODY_BYTES + 1), True),
        (POST + b"Content-Length: 99999999999999999999\r\n\r\n", True),
        (POST + b"Content-Length: x\r\n\r\n", True),
        (POST + b"Content-Length: -1\r\n\r\n", True),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", True),
        (POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n", True),
        (b"NONSENSE\r\n\r\n", True),
        (b"\r\n\r\n", True),
    ],
)
def test_a_request_is_whole_with_its_head_and_a_small_body(received: bytes, whole: bool) -> None:
    assert is_whole(received) == whole


@pytest.fixture
def ends() -> Iterator[tuple[PatientSocket, socket.socket]]:
    """The server's end of a connection and the client's."""
    ours, theirs = socket.socketpair()
    with PatientSocket.of(ours) as patient, theirs:
        yield patient, theirs


def test_patience_ends_with_a_client_that_trickles(
    ends: tuple[PatientSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    patient, client = ends
    patient.sending.waited_s = patience.GRACE_S
    client.sendall(b"x" * 100)
    assert len(patient.recv(100)) == 100  # it moved, so there is more

    monkeypatch.setattr(patience, "MIN_BYTES_PER_S", 1e12)
    client.sendall(b"x")
    with pytest.raises(TimeoutError):
        patient.recv(100)

    patient.begin()
    client.sendall(b"x")
    assert patient.recv(100) == b"x"


def test_patience_ends_with_a_client_that_takes_nothing(ends: tuple[PatientSocket, socket.socket]) -> None:
    patient, client = ends
    patient.taking.waited_s = 1e6
    with pytest.raises(TimeoutError):
        patient.sendall(b"x" * 10)
    assert client.recv(100) == b"x" * 10


def test_everything_is_sent(ends: tuple[PatientSocket, socket.socket]) -> None:
    patient, client = ends
    content = bytes(range(256)) * 300
    patient.sendall(memoryview(content))
    received = b""
    while len(received) < len(content):
        received += client.recv(2**20)
    assert received == content


def test_a_socket_that_was_accepted_without_blocking_blocks() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with PatientSocket.of(ours) as patient, theirs:
        patient.setblocking(True)
        assert os.get_blocking(patient.fileno())
        patient.setblocking(False)
        assert not os.get_blocking(patient.fileno())
        patient.setblocking(True)
        assert os.get_blocking(patient.fileno())


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


def arrived(client: socket.socket) -> bytes:
    try:
        return client.recv(2**20, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("body", [b"body", memoryview(b"body"), b"b" * 100_000])
def test_a_head_goes_with_its_body(ends: tuple[PatientSocket, socket.socket], body: bytes) -> None:
    patient, client = ends
    patient.sendall(HEAD)
    assert arrived(client) == b""
    patient.sendall(body)
    patient.sendall(b"more")
    received = b""
    while len(received) < len(HEAD) + len(body) + 4:
        received += client.recv(2**20)
    assert received == HEAD + bytes(body) + b"more"


def test_a_head_without_a_body_goes_alone(ends: tuple[PatientSocket, socket.socket]) -> None:
    patient, client = ends
    patient.sendall(HEAD)
    patient.flush()
    patient.flush()
    assert arrived(client) == HEAD


@pytest.mark.parametrize("streamed", [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_head_whose_body_comes_in_its_own_time_does_not_wait(
    ends: tuple[PatientSocket, socket.socket], streamed: bytes
) -> None:
    patient, client = ends
    patient.sendall(streamed)
    assert arrived(client) == streamed


def test_a_file_goes_behind_its_head(ends: tuple[PatientSocket, socket.socket], tmp_path: Path) -> None:
    patient, client = ends
    (tmp_path / "body").write_bytes(b"body")
    patient.sendall(HEAD)
    with (tmp_path / "body").open("rb") as file:
        patient.sendfile(file)
    assert arrived(client) == HEAD + b"body"
