"""Patience: how long a client may take, so that none holds a thread by sending or reading slowly.

Until a request's head is whole, and its body too if it is small, the connection waits in gunicorn's poller. From then on a thread
serves it, and the time that the thread waits for the client is counted: a little for every request, and more for what it moves.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from typing import Any

# From its first byte on, or from the connection on.
ARRIVE_WITHIN_S = 15.0
MAX_HEAD_BYTES = 64 * 2**10
# Most questions are smaller. So many bytes of each waiting connection may lie in memory.
SMALL_BODY_BYTES = 64 * 2**10
# A client that neither sends nor takes a byte for so long loses its connection.
SILENT_S = 20
# What a thread waits for one request's client in all: so long, and besides as the bytes take at this speed.
GRACE_S = 20.0
MIN_BYTES_PER_S = 4096
_SEND_BYTES = 256 * 2**10
# A body that is copied behind its head rather than sent after it.
_JOIN_BYTES = 64 * 2**10

_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,12})[ \t]*(?:\r|$)")


def is_whole(received: bytes) -> bool:
    """Whether a thread may take the request: its head is there, and its body, unless that is large or comes in its own time.

    What is not well-formed counts as whole: the parser refuses it.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = received[:end].lower()
    # Chunks tell no length; a client that expects an answer first sends no body before.
    if b"\ntransfer-encoding:" in head or b"\nexpect:" in head:
        return True
    length = _LENGTH.search(head)
    if length is None or int(length[1]) > SMALL_BODY_BYTES:
        return True
    return len(received) >= end + 4 + int(length[1])


class Patience:
    """How long a client was waited for in one direction, and for how much."""

    def __init__(self) -> None:
        self.waited_s = 0.0
        self.moved_bytes = 0

    def count(self, began: float, moved_bytes: int) -> None:
        """What was waited for since `began` (monotonic). Raises TimeoutError when it is enough."""
        self.waited_s += time.monotonic() - began
        self.moved_bytes += moved_bytes
        if self.waited_s > GRACE_S + self.moved_bytes / MIN_BYTES_PER_S:
            raise TimeoutError("the client is too slow")


class PatientSocket(socket.socket):
    """A client's socket that counts the time it is waited for. recv and sendall raise TimeoutError when that is enough.

    gunicorn sends the head of an answer by itself: here it waits for the first bytes of the body, or for `flush`. A client that
    gets both at once wakes once, and each call into the kernel is one where another thread takes the interpreter.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = b""
        self.begin()

    @classmethod
    def of(cls, accepted: socket.socket) -> PatientSocket:
        """The same connection; the socket that was given is empty afterwards."""
        accepted.setblocking(True)  # a new object believes that it is
        patient = cls(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        # In the kernel, per read and write: a Python time-out would bound a whole sendall, however large.
        silent = struct.pack("@ll", SILENT_S, 0)
        patient.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, silent)
        patient.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, silent)
        return patient

    def begin(self) -> None:
        """Another request: patience is new."""
        # Apart, so that a client that sent too slowly can still be told so.
        self.sending, self.taking = Patience(), Patience()

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """As a socket's. BlockingIOError after SILENT_S without a byte."""
        began = time.monotonic()
        received = super().recv(bufsize, flags)
        self.sending.count(began, len(received))
        return received

    def recv_now(self, bufsize: int) -> bytes:
        """What is there. Raises BlockingIOError if nothing is."""
        return super().recv(bufsize, socket.MSG_DONTWAIT)

    def setblocking(self, flag: bool) -> None:
        """As a socket's; the kernel is not asked for what is so already."""
        if not flag or self.gettimeout() is not None:
            super().setblocking(flag)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """As a socket's. BlockingIOError after SILENT_S without a byte taken."""
        if _is_head(data):
            self._head += data
            return
        if len(data) > _JOIN_BYTES:
            self.flush()
        elif self._head:
            data, self._head = b"".join((self._head, data)), b""
        self._send(data, flags)

    def flush(self) -> None:
        """Send the head of an answer without a body. Raises as sendall."""
        head, self._head = self._head, b""
        self._send(head)

    def sendfile(self, *args: Any, **kwargs: Any) -> int:
        """As a socket's."""
        self.flush()
        return super().sendfile(*args, **kwargs)

    def _send(self, data: bytes, flags: int = 0) -> None:
        rest = memoryview(data)
        while rest:
            began = time.monotonic()
            sent = super().send(rest[:_SEND_BYTES], flags)
            self.taking.count(began, sent)
            rest = rest[sent:]


def _is_head(data: Any) -> bool:
    """Of an answer whose body follows at once. (A piece of a body that looks like one is sent a little later.)"""
    if not isinstance(data, bytes) or not data.startswith(b"HTTP/1."):
        return False
    return data.endswith(b"\r\n\r\n") and b"\r\nContent-Length: " in data
