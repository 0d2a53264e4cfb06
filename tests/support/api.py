"""FakeApi: a real HTTP server on loopback that answers as a test says and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """An answer; `cut_at` breaks the connection after so many bytes of the body."""

    body: Any = None  # bytes as they are, anything else as JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None


Answerer = Callable[[Asked], Reply]


class FakeApi:
    """`on(method, path, …)` says what is answered: replies one after the other, the last one for ever, or a function."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self._routes: dict[tuple[str, str], Answerer] = {}

    def on(self, method: str, path: str, *replies: Reply | Answerer) -> None:
        left = list(replies)

        def answer(asked: Asked) -> Reply:
            reply = left.pop(0) if len(left) > 1 else left[0]
            return reply if isinstance(reply, Reply) else reply(asked)

        self._routes[method, path] = answer

    def answer(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        unknown = Reply({"error": {"message": f"no route {asked.path}", "type": "x", "param": None, "code": "not_found"}}, 404)
        return self._routes.get((asked.method, asked.path), lambda _: unknown)(asked)


@contextmanager
def running_api() -> Iterator[FakeApi]:
    """A server on a free port, gone afterwards."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def _any(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            is_chunked = headers.get("transfer-encoding") == "chunked"
            body = self._chunks() if is_chunked else self.rfile.read(int(headers.get("content-length", 0)))
            reply = api.answer(Asked(self.command, parts.path, query, headers, body))
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if reply.cut_at is None else content[: reply.cut_at])
            if reply.cut_at is not None:
                self.close_connection = True

        def _chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        do_GET = do_POST = do_DELETE = _any  # noqa: N815 - http.server's names

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api = FakeApi(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="fake api")
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
