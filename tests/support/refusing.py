"""A front of a service that refuses each caller once, as the service does when it is full, and then lets everything through."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from flask import Flask, Response, request
from werkzeug.serving import make_server

from shared.errors import LaneFull
from web.failures import answer

# So long the refused are told to wait: short for a test, long beside the client's own half second if it did not listen.
RETRY_AFTER_S = 0.02


class RefusingFront:
    """Callers are told apart by their keys; `calls` counts what each has sent."""

    def __init__(self, service_url: str) -> None:
        self.calls: Counter[str] = Counter()
        self._service_url = service_url
        self._lock = threading.Lock()
        self._app = Flask("front", static_folder=None)
        self._app.add_url_rule("/<path:path>", view_func=self._pass, methods=["POST", "GET"])
        self._server = make_server("127.0.0.1", 0, self._app, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.port}/v1"

    def _pass(self, path: str) -> Response:
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        with self._lock:
            self.calls[key] += 1
            is_first = self.calls[key] == 1
        if is_first:
            request.get_data()
            return answer(LaneFull("too many requests wait", retry_after_s=RETRY_AFTER_S))
        passed = httpx.request(request.method, f"{self._service_url}/{path}", content=request.get_data(), timeout=60)
        return Response(passed.content, passed.status_code, content_type=passed.headers["content-type"])

    @contextmanager
    def running(self) -> Iterator[RefusingFront]:
        """Serves until the end of the block."""
        thread = threading.Thread(target=self._server.serve_forever, name="refusing-front")
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()
