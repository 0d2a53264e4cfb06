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
    """A client's socket that counts the time it is waited for. recv and sendall raise TimeoutError when that is enough."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.begin()

    @classmethod
    def of(cls, accepted: socket.socket) -> PatientSocket:
        """The same connection; the socket that was given is empty afterwards."""
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

    def sendall(self, data: Any, flags: int = 0) -> None:
        """As a socket's. BlockingIOError after SILENT_S without a byte taken."""
        rest = memoryview(data)
        while rest:
            began = time.monotonic()
            sent = super().send(rest[:_SEND_BYTES], flags)
            self.taking.count(began, sent)
            rest = rest[sent:]
