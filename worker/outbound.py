"""Calls to URLs that a caller chose: to public addresses only, whatever its name resolves to, and not for long."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import httpcore
import httpx

from shared.webhooks import Address, is_public

# The whole call, from the first byte to the last, but for looking up the name.
DEADLINE_S = 10.0
# Of an answer so much is read and thrown away; its status is all that counts.
MAX_ANSWER_BYTES = 64 * 1024
# Addresses of one name that are tried.
MAX_ADDRESSES = 4

Resolve = Callable[[str, int], list[Address]]


class CallFailed(Exception):
    """No answer came; `reason` says why in a word, and holds nothing of the URL."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def resolve(host: str, port: int) -> list[Address]:
    """Every address of a name. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(address[0]) for _, _, _, _, address in found))


class Caller:
    """Posts, from several threads. Neither redirects are followed nor proxies of the environment used."""

    def __init__(self, *, allow_private: bool, resolve: Resolve = resolve) -> None:
        self._allow_private = allow_private
        self._resolve = resolve
        self._ssl_context = httpx.create_ssl_context()

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status of the answer. Raises CallFailed."""
        backend = _Guarded(self._resolve, self._allow_private, time.monotonic() + DEADLINE_S)
        given = [(name.encode(), value.encode()) for name, value in headers.items()]
        timeouts = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), DEADLINE_S)}
        try:
            with (
                httpcore.ConnectionPool(ssl_context=self._ssl_context, network_backend=backend, max_connections=1) as pool,
                pool.stream("POST", url, headers=given, content=body, extensions=timeouts) as response,
            ):
                # Taken, so that the other side does not see its answer fail; what it says does not matter.
                with suppress(httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError):
                    read_bytes = 0
                    for block in response.iter_stream():
                        read_bytes += len(block)
                        if read_bytes >= MAX_ANSWER_BYTES:
                            break
                return int(response.status)
        except httpcore.TimeoutException:
            raise CallFailed("timeout") from None
        except httpcore.RemoteProtocolError:
            raise CallFailed("not_http") from None
        except (httpcore.NetworkError, OSError):
            raise CallFailed("connection_failed") from None
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol, ValueError):
            raise CallFailed("wrong_url") from None


class _Guarded(httpcore.NetworkBackend):
    """Looks a name up, checks every address it has, and connects to one of those checked: it is not looked up again."""

    def __init__(self, resolve: Resolve, allow_private: bool, deadline: float) -> None:
        self._resolve = resolve
        self._allow_private = allow_private
        self._deadline = deadline
        self._tcp = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline is nearer
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            addresses = self._resolve(host, port)
        except (OSError, UnicodeError):
            raise CallFailed("name_not_found") from None
        if not self._allow_private and not all(map(is_public, addresses)):
            raise CallFailed("private_address")
        addresses = addresses[:MAX_ADDRESSES]
        for number, address in enumerate(addresses):
            # One that swallows the connection leaves time for the others.
            share_s = _left(self._deadline, httpcore.ConnectTimeout) / (len(addresses) - number)
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                stream = self._tcp.connect_tcp(str(address), port, share_s, local_address, socket_options)
                return _Bounded(stream, self._deadline)
        raise httpcore.ConnectError("no address takes the connection")


class _Bounded(httpcore.NetworkStream):
    """A stream whose every step ends at one deadline: many short waits are no way around it."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, _left(self._deadline, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, _left(self._deadline, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> _Bounded:  # noqa: ARG002
        left_s = _left(self._deadline, httpcore.ConnectTimeout)
        return _Bounded(self._stream.start_tls(ssl_context, server_hostname, left_s), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float, too_late: type[httpcore.TimeoutException]) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise too_late("the deadline has passed")
    return left_s
