"""A thread that stays with its client: only for a whole request, for a moment, and no more threads than there are for it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.http.unreader import SocketUnreader

from tests.support.waiting import wait_until
from web import lingering
from web.lingering import Lingering
from web.patience import PatientSocket

HEAD = b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Any]]:
    """A client's end, and the connection as the server has it."""
    client, server = socket.socketpair()
    sock = PatientSocket.of(server)
    with client, sock:
        yield client, SimpleNamespace(sock=sock, parser=SimpleNamespace(unreader=SocketUnreader(sock)))


def test_a_whole_request_is_served_by_the_thread_that_stayed(ends: tuple[socket.socket, Any]) -> None:
    client, conn = ends
    conn.sock.sending.waited_s = 5.0
    client.sendall(HEAD + b"body")

    assert Lingering().has_followed(conn, 65536)
    assert conn.parser.unreader.buf.getvalue() == HEAD + b"body"
    assert conn.sock.sending.waited_s == 0.0  # patience is new


def test_what_is_not_whole_is_kept_for_the_main_loop(ends: tuple[socket.socket, Any]) -> None:
    client, conn = ends
    client.sendall(HEAD + b"bo")

    assert not Lingering().has_followed(conn, 65536)
    assert conn.parser.unreader.buf.getvalue() == HEAD + b"bo"


def test_a_client_that_left_or_sent_ahead_is_the_main_loops(ends: tuple[socket.socket, Any]) -> None:
    client, conn = ends
    conn.parser.unreader.unread(HEAD + b"body")
    assert not Lingering().has_followed(conn, 65536)
    conn.parser.unreader.take_buffered()
    client.close()
    assert not Lingering().has_followed(conn, 65536)


def test_no_more_threads_linger_than_there_are_for_it(ends: tuple[socket.socket, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "LINGER_MS", 20_000)
    client, conn = ends
    other, server = socket.socketpair()
    places, found = Lingering(threads=1), []
    with other, PatientSocket.of(server) as sock:
        second = SimpleNamespace(sock=sock, parser=SimpleNamespace(unreader=SocketUnreader(sock)))
        first = threading.Thread(target=lambda: found.append(places.has_followed(conn, 65536)))
        first.start()
        wait_until(lambda: places.lingering == 1)
        other.sendall(HEAD + b"body")
        assert not places.has_followed(second, 65536)
        client.sendall(HEAD + b"body")
        first.join()
        assert places.has_followed(second, 65536)
    assert found == [True]
