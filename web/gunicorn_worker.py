"""gunicorn's own end of a connection: its errors in OpenAI's form, its log through ours, and an end to slow clients' patience."""

from __future__ import annotations

import logging
import socket
import struct
import sys
from contextlib import suppress
from typing import Any

import orjson
from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.http.errors import ExpectationFailed, LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.gthread import ThreadWorker

from shared import logs
from shared.errors import BadRequest, UmekomiError
from shared.settings import load_settings
from web import openai
from web.hooks import request_id
from web.parts import EXTENSION

# A client that neither sends nor takes a byte for so long loses its connection, and the thread goes to another.
PATIENCE_S = 60

_REFUSALS: dict[type[ParseException], tuple[int, str, str]] = {
    LimitRequestLine: (414, "URI Too Long", "the request line is too long"),
    LimitRequestHeaders: (431, "Request Header Fields Too Large", "the headers are too large"),
    ExpectationFailed: (417, "Expectation Failed", "this server does not do what the Expect header asks for"),
}


def refusal(error: Exception) -> bytes:
    """The whole HTTP response to a request that never reached the app."""
    status, phrase, message = 400, "Bad Request", f"the request is not well-formed HTTP ({type(error).__name__})"
    if isinstance(error, ParseException):
        for kind, known in _REFUSALS.items():
            if isinstance(error, kind):
                status, phrase, message = known
        told: UmekomiError = BadRequest(message, code="malformed_request" if status == 400 else None)
    else:
        status, phrase = 500, "Internal Server Error"
        told = UmekomiError("something went wrong in the server; its log says what")
    body = orjson.dumps(openai.error_object(told, status))
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nContent-Type: {openai.JSON}\r\n"
        f"Content-Length: {len(body)}\r\nx-request-id: {request_id(None)}\r\n\r\n"
    )
    return head.encode() + body


class ApiWorker(ThreadWorker):  # type: ignore[misc]
    """gthread, but no HTML, and no client that holds a thread for ever."""

    def enqueue_req(self, conn: Any) -> None:
        # In the kernel, per read and write: a Python time-out would bound a whole sendall, however large.
        patience = struct.pack("@ll", PATIENCE_S, 0)
        with suppress(OSError):  # gone already; its thread will see that
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        super().enqueue_req(conn)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Streams would go on for as long as their clients like; whoever waits for an answer still gets it."""
        app = getattr(self, "wsgi", None)
        if self.alive and app is not None:
            app.extensions[EXTENSION].events.end_streams()
        super().handle_exit(sig, frame)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:  # noqa: ARG002 - gunicorn's signature
        """Answer what the HTTP parser refused, or what fell through the app."""
        if isinstance(exc, ParseException):
            self.log.info("request refused by the HTTP parser: %s", type(exc).__name__)
        else:
            self.log.exception("request failed outside the app")
        try:
            util.write_nonblock(client, refusal(exc))
        except OSError:
            self.log.debug("client gone before its error could be sent")


class ApiLogger(Logger):  # type: ignore[misc]
    """gunicorn's messages as lines of our log."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        logs.set_up(load_settings(), "web")
        self.error_log.handlers.clear()
        self.error_log.propagate = True

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        # A client that ran out of our patience is nobody's fault to look at.
        if isinstance(sys.exc_info()[1], BlockingIOError | TimeoutError):
            self.error_log.log(logging.INFO, "client too slow, connection closed")
        else:
            super().exception(msg, *args, **kwargs)
