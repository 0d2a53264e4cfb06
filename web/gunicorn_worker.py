"""gunicorn's own end of a connection: its errors in OpenAI's form, its log through ours, and an end to slow clients' patience."""

from __future__ import annotations

import logging
import select
import selectors
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any

import orjson
from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.http.errors import ExpectationFailed, LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from shared import logs
from shared.errors import BadRequest, UmekomiError
from shared.settings import load_settings
from web import openai
from web.hooks import request_id
from web.lingering import Lingering
from web.parts import EXTENSION
from web.patience import ARRIVE_WITHIN_S, MAX_HEAD_BYTES, PatientSocket, is_whole

# What a client may still send behind its answer is taken for so long.
CLOSE_WITHIN_S = 2.0
# The rest of a body that was refused, so that the connection can be kept.
DRAIN_WITHIN_S = 0.05
_RECEIVE_BYTES = 64 * 2**10


class SlowRequest(ParseException):  # type: ignore[misc]
    """A request that did not come in time."""


_REFUSALS: dict[type[ParseException], tuple[int, str, str]] = {
    LimitRequestLine: (414, "URI Too Long", "the request line is too long"),
    LimitRequestHeaders: (431, "Request Header Fields Too Large", "the headers are too large"),
    SlowRequest: (408, "Request Timeout", "the request did not come in time"),
    ExpectationFailed: (417, "Expectation Failed", "this server does not do what the Expect header asks for"),
}


def refusal(error: Exception) -> bytes:
    """The whole HTTP response to a request that never reached the app."""
    status, phrase, message = 400, "Bad Request", f"the request is not well-formed HTTP ({type(error).__name__})"
    if isinstance(error, ParseException):
        for kind, known in _REFUSALS.items():
            if isinstance(error, kind):
                status, phrase, message = known
        code = {400: "malformed_request", 408: "request_timeout"}.get(status)
        told: UmekomiError = BadRequest(message, code=code)
    else:
        status, phrase = 500, "Internal Server Error"
        told = UmekomiError("something went wrong in the server; its log says what")
    body = orjson.dumps(openai.error_object(told, status))
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nContent-Type: {openai.JSON}\r\n"
        f"Content-Length: {len(body)}\r\nx-request-id: {request_id(None)}\r\n\r\n"
    )
    return head.encode() + body


def _due(waiting: dict[Any, float], now: float) -> list[Any]:
    """Those whose time is over; the dict is in the order of that."""
    found = []
    for conn, until in waiting.items():
        if until > now:
            break
        found.append(conn)
    return found


class ApiWorker(ThreadWorker):  # type: ignore[misc]
    """gthread, but no HTML, and no client that holds a thread by being slow."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Connections by when they are given up, in that order: those whose request is not whole, and those that are closing.
        self._arriving: dict[Any, float] = {}
        self._closing: dict[Any, float] = {}
        self._lingering = Lingering()

    def set_accept_enabled(self, enabled: bool) -> None:
        """As gthread's; but a process that stops serves whoever the kernel let in already, and then lets nobody in.

        gthread keeps the listening socket open until its last client is gone, and then whoever waits there is reset.
        """
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        for listener in self.sockets:
            with suppress(OSError, ValueError):  # the other processes of this server may be quicker, or it is closed
                while select.select([listener], [], [], 0)[0]:
                    self.accept(listener)
            listener.close()

    def enqueue_req(self, conn: Any) -> None:
        """Something may have come: give the request to a thread if it is whole, else wait for the rest without one."""
        if self.cfg.is_ssl:  # the bytes are not the request's
            super().enqueue_req(conn)
            return
        try:
            if not conn.initialized:
                conn.sock = PatientSocket.of(conn.sock)
                conn.init()
            self._receive(conn)
        except OSError:
            self._drop(conn)

    def _receive(self, conn: Any) -> None:
        unreader = conn.parser.unreader
        received: bytes = unreader.take_buffered()
        has_ended = False
        # Whoever sends request upon request without waiting for answers has the kernel keep them, not us.
        if not is_whole(received):
            with suppress(BlockingIOError):
                more = conn.sock.recv_now(_RECEIVE_BYTES)
                has_ended = not more
                received += more
        unreader.unread(received)
        if is_whole(received) or (has_ended and b"\r\n\r\n" in received):
            self._forget(conn)
            conn.sock.begin()
            super().enqueue_req(conn)
        elif has_ended:
            self._drop(conn)
        elif len(received) > MAX_HEAD_BYTES and b"\r\n\r\n" not in received:
            self._refuse(conn, LimitRequestHeaders("too large"))
        elif conn not in self._arriving:
            self._arriving[conn] = time.monotonic() + ARRIVE_WITHIN_S
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_arriving, conn))

    def _on_arriving(self, conn: Any, _sock: Any) -> None:
        try:
            self._receive(conn)
        except OSError:
            self._drop(conn)

    def _refuse(self, conn: Any, error: Exception) -> None:
        self.log.info("request refused before it was whole: %s", type(error).__name__)
        with suppress(OSError):
            conn.sock.send(refusal(error), socket.MSG_DONTWAIT)
        self._forget(conn)
        self._close_gently(conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """gthread's own gentle close would have every other connection wait for this one's client."""
        if self.cfg.is_ssl or fs.cancelled() or fs.exception() is not None or fs.result():
            super().finish_request(conn, fs)
        else:
            self._close_gently(conn)

    def handle(self, conn: Any) -> Any:
        """As gthread's; and the requests that follow at once."""
        while (kept := super().handle(conn)) is True and self._has_followed(conn):
            pass
        return kept

    def _has_followed(self, conn: Any) -> bool:
        # A process that stops gives its connections back, and closes them when their time is over.
        return self.alive and not self.cfg.is_ssl and self._lingering.has_followed(conn, _RECEIVE_BYTES)

    def handle_request(self, req: Any, conn: Any) -> bool:
        """As gthread's; and an answer without a body goes too."""
        try:
            return bool(super().handle_request(req, conn))
        finally:
            if isinstance(conn.sock, PatientSocket):
                with suppress(OSError):  # the next read finds it
                    conn.sock.flush()

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """gthread's own waits seconds for the rest of a body that nobody wants, with a thread."""
        rest = getattr(conn.parser.mesg.body.reader, "length", None)
        if keepalive and rest is not None and rest <= len(conn.parser.unreader.buf.getvalue()):
            # It is all here. A deadline could pass while the thread waits for its turn, and the client was told to come again.
            return bool(conn.parser.finish_body())
        return bool(keepalive) and bool(conn.parser.finish_body(deadline=time.monotonic() + DRAIN_WITHIN_S))

    def _close_gently(self, conn: Any) -> None:
        """Say that nothing more comes, and take what the client still sends: a close before that would destroy the answer."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_closing, conn))
            self._closing[conn] = time.monotonic() + CLOSE_WITHIN_S
        except (OSError, ValueError, KeyError):  # the client is gone, or the poller is
            self._drop(conn)

    def _on_closing(self, conn: Any, _sock: Any) -> None:
        with suppress(BlockingIOError):
            try:
                has_ended = not conn.sock.recv_now(_RECEIVE_BYTES)
            except BlockingIOError:
                raise
            except OSError:
                has_ended = True
            if has_ended:
                self._drop(conn)

    def murder_pending(self) -> None:
        """Once a second or more often: give up whoever takes too long."""
        super().murder_pending()
        now = time.monotonic()
        for conn in _due(self._arriving, now):
            if conn.parser.unreader.buf.getvalue():
                self._refuse(conn, SlowRequest())
            else:
                self._drop(conn)
        for conn in _due(self._closing, now):
            self._drop(conn)
        if not self.alive:
            # Nothing has come on these yet. Those that were opened a moment ago have a request on the way.
            silent = [conn for conn in self._arriving if not conn.parser.unreader.buf.getvalue()]
            for conn in silent:
                if self._arriving[conn] - ARRIVE_WITHIN_S + STOP_KEEPALIVE_LINGER < now:
                    self._drop(conn)

    def _forget(self, conn: Any) -> None:
        """The poller looks after the connection no longer."""
        for waiting in (self._arriving, self._closing):
            if waiting.pop(conn, None) is not None:
                with suppress(OSError, KeyError, ValueError):
                    self.poller.unregister(conn.sock)

    def _drop(self, conn: Any) -> None:
        self._forget(conn)
        self.nr_conns -= 1
        conn.close()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Streams would go on for as long as their clients like; whoever waits for an answer still gets it."""
        app = getattr(self, "wsgi", None)
        if self.alive and app is not None:
            app.extensions[EXTENSION].events.end_streams()
            app.extensions[EXTENSION].watchers.stop()
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

    def debug(self, msg: str, *args: Any, **kwargs: Any) -> None:
        # gunicorn tells each request's path, which is a client's words; our hook tells its route.
        if msg != "%s %s":
            super().debug(msg, *args, **kwargs)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        # A client that ran out of our patience is nobody's fault to look at.
        if isinstance(sys.exc_info()[1], BlockingIOError | TimeoutError):
            self.error_log.log(logging.INFO, "client too slow, connection closed")
        else:
            super().exception(msg, *args, **kwargs)
