"""The one hook around all routes: who calls, the request's id, how long it took, and its line in the log."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from flask import Flask, Response, g, request

from shared.logs import get_logger
from web.auth import Access, Caller

logger = get_logger(__name__)

# Blueprints that want no key: a probe has none.
OPEN = frozenset({"health"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def request_id(given: str | None) -> str:
    """The client's own id if it can stand in a header and in a log, else a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"


def install(app: Flask, access: Access) -> None:
    """Run the hooks around every request of the app."""

    def begin() -> None:
        g.began = time.monotonic()
        g.request_id = request_id(request.headers.get("X-Request-Id"))
        g.caller = Caller("")
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request=g.request_id)
        # A preflight carries no key, and tells only which methods there are.
        if request.blueprint not in OPEN and request.method != "OPTIONS":
            g.caller = access.caller(request.headers)

    def end(response: Response) -> Response:
        began, this = g.began, request_line()
        response.headers["x-request-id"] = g.request_id
        response.headers["openai-processing-ms"] = str(_ms_since(began))

        def left() -> None:
            # When the last byte left: a download takes longer than the route that began it.
            log = logger.debug if this["blueprint"] in OPEN else logger.info
            log("request answered", status=response.status_code, ms=_ms_since(began), **this)

        response.call_on_close(left)
        return response

    app.before_request(begin)
    app.after_request(end)


def request_line() -> dict[str, str | int | None]:
    """What the log says of a request: its route, never its path or query, which a client chooses."""
    return {
        "method": request.method,
        "route": request.url_rule.rule if request.url_rule else None,
        "blueprint": request.blueprint,
        "job": (request.view_args or {}).get("job_id"),
        "bytes": request.content_length,
        "client": request.remote_addr,
    }


def _ms_since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
