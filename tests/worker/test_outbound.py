"""Calls go to public addresses only, to the one that was checked, and end in time."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from shared.webhooks import Address
from tests.support.receiver import receiving
from worker import outbound
from worker.outbound import Caller, CallFailed, resolve

LOOPBACK = ipaddress.ip_address("127.0.0.1")
PUBLIC = ipaddress.ip_address("93.184.216.34")


def always(*addresses: Address) -> Callable[[str, int], list[Address]]:
    return lambda _host, _port: list(addresses)


def reason(caller: Caller, url: str) -> str:
    with pytest.raises(CallFailed) as raised:
        caller.post(url, {}, b"{}")
    return raised.value.reason


def test_a_post_arrives_with_its_headers_body_and_host() -> None:
    with receiving() as receiver:
        receiver.answers = [204]
        port = urlsplit(receiver.url).port
        status = Caller(allow_private=True, resolve=always(LOOPBACK)).post(
            f"http://hooks.example:{port}/a?b=c", {"x-y": "z"}, b"body"
        )
    assert status == 204
    (got,) = receiver.received
    assert (got.path, got.body, got.headers["x-y"], got.headers["host"]) == ("/a?b=c", b"body", "z", f"hooks.example:{port}")


@pytest.mark.parametrize("addresses", [(LOOPBACK,), (PUBLIC, LOOPBACK), (ipaddress.ip_address("::ffff:127.0.0.1"),)])
def test_a_name_of_which_any_address_is_private_is_not_called(addresses: tuple[Address, ...]) -> None:
    with receiving() as receiver:
        port = urlsplit(receiver.url).port
        assert (
            reason(Caller(allow_private=False, resolve=always(*addresses)), f"http://hooks.example:{port}/") == "private_address"
        )
        assert reason(Caller(allow_private=False), receiver.url) == "private_address"
        assert reason(Caller(allow_private=False), f"http://localhost:{port}/") == "private_address"
    assert receiver.received == []


def test_a_name_is_looked_up_once_so_that_it_cannot_change_between_check_and_call(monkeypatch: pytest.MonkeyPatch) -> None:
    lookups: list[str] = []
    connected: list[str] = []

    def rebinding(host: str, _port: int) -> list[Address]:
        lookups.append(host)
        return [PUBLIC] if len(lookups) == 1 else [LOOPBACK]

    def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    assert reason(Caller(allow_private=False, resolve=rebinding), "https://hooks.example/") == "connection_failed"
    assert (lookups, connected) == (["hooks.example"], [str(PUBLIC)])


def test_a_redirect_is_an_answer_and_not_followed() -> None:
    with receiving() as elsewhere, receiving() as receiver:
        receiver.answers, receiver.answer_headers = [307], {"Location": elsewhere.url}
        assert Caller(allow_private=True).post(receiver.url, {}, b"") == 307
    assert elsewhere.received == []


def test_a_receiver_that_does_not_answer_costs_no_more_than_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "DEADLINE_S", 0.2)
    done = threading.Event()
    with receiving() as receiver:
        receiver.before_answer = lambda: done.wait(20)
        assert reason(Caller(allow_private=True), receiver.url) == "timeout"
        done.set()


def test_a_receiver_that_drips_its_answer_is_cut_off_at_the_deadline_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "DEADLINE_S", 0.5)
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.02):
                    try:
                        connection.sendall(b"X: y\r\n")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        assert reason(Caller(allow_private=True), f"http://127.0.0.1:{server.getsockname()[1]}/") in ("timeout", "not_http")
        stop.set()
        thread.join()


def test_a_long_answer_is_not_read_to_its_end() -> None:
    with receiving() as receiver:
        receiver.answer_body = bytes(64 * 2**20)
        assert Caller(allow_private=True).post(receiver.url, {}, b"") == 200


def test_what_is_no_http_and_what_nobody_listens_on_is_told_in_a_word() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def talk() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"220 mail.example ESMTP\r\n\r\n")
                while connection.recv(1024):
                    pass

        thread = threading.Thread(target=talk)
        thread.start()
        assert reason(Caller(allow_private=True), f"http://127.0.0.1:{port}/") == "not_http"
        thread.join()
    assert reason(Caller(allow_private=True), f"http://127.0.0.1:{port}/") == "connection_failed"

    def unknown(_host: str, _port: int) -> list[Address]:
        raise socket.gaierror

    assert reason(Caller(allow_private=True, resolve=unknown), "http://nowhere.example/") == "name_not_found"
    assert reason(Caller(allow_private=True), f"http://{'a' * 70}.example/") == "name_not_found"


def test_tls_is_checked_against_the_name_and_not_the_address() -> None:
    with receiving() as receiver:  # speaks no TLS
        port = urlsplit(receiver.url).port
        assert (
            reason(Caller(allow_private=True, resolve=always(LOOPBACK)), f"https://hooks.example:{port}/") == "connection_failed"
        )
    assert receiver.received == []


def test_every_address_of_a_name_is_found() -> None:
    assert resolve("127.1", 80) == [LOOPBACK]
    assert LOOPBACK in resolve("localhost", 80)
