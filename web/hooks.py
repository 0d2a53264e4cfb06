"""The one hook around all routes: who calls, the request's id, how long it took, and its line in the log."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import structlog
from flask import Flask, Response, g, request

from shared import metrics, traces
from shared.ids import new_id
from shared.logs import get_logger
from shared.settings import Settings
from web.admission import SMALL_ANSWER_BYTES, Admission, kind_of
from web.auth import Access, Caller
from web.cors import Cors
from web.limits import Meter, count_request, tell_rates
from web.ui import wants_page

logger = get_logger(__name__)

# Blueprints that want no key: a probe has none, nor has a browser that goes to a page.
OPEN = frozenset({"health", "docs", "ui", "links"})
# What a key of the role `embed` may use. Everything else is for `admin`, so that a route nobody thought of is not for everybody.
FOR_EMBED = frozenset(
    {
        "about",
        "embeddings",
        "jobs",
        "overview",
        "results",
        "files",
        "batches",
        "models",
        "ollama",
        "rerank",
        "tei",
        "tokenize",
        "pages",
    }
)
# Endpoints, or kinds of requests, that count as a request of the caller's minute: they make work. A look at a job makes none.
COUNTED = frozenset({"asks", "uploads", "batches.create"})
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# What `disable_webui` and `disable_metrics_endpoint` take away.
PAGES = ("/docs", "/ui")
METRICS = ("/metrics",)
# Asked all the time, by machines: not worth a line each.
QUIET = OPEN | {"metrics"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def request_id(given: str | None) -> str:
    """The client's own id if it can stand in a header and in a log, else a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else f"req_{new_id()}"


def is_counted(endpoint: str | None, blueprint: str | None) -> bool:
    """Whether such a request is one of its caller's minute."""
    return kind_of(endpoint, blueprint) in COUNTED or endpoint in COUNTED


def is_hidden(path: str, settings: Settings) -> bool:
    """Whether the settings take a path away, with everything below it."""
    hidden = (PAGES if settings.disable_webui else ()) + (METRICS if settings.disable_metrics_endpoint else ())
    return any(path == each or path.startswith(f"{each}/") for each in hidden)


def open_to_all(settings: Settings) -> frozenset[str]:
    """Blueprints that want no key of anybody."""
    return OPEN | {"metrics"} if settings.metrics_open else OPEN


def install(
    app: Flask,
    access: Access,
    admission: Admission,
    meter: Meter,
    cors: Cors,
    *,
    is_page_off: bool = False,
    without_key: frozenset[str] = OPEN,
) -> None:
    """Run the hooks around every request of the app.

    `is_page_off`: a browser that goes to / gets what a program gets. `without_key`: blueprints that want none.
    """

    def begin() -> None:
        g.began = time.monotonic()
        g.request_id = request_id(request.headers.get("X-Request-Id"))
        g.caller = Caller("")
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request=g.request_id)
        g.span = traces.NO_SPAN
        if traces.is_on():
            g.span = _begin_span() if request.blueprint not in QUIET else traces.NO_SPAN
            traces.enter(g.span)
        # A preflight carries no key, and tells only which methods there are.
        g.wants_page = wants_page(request, is_off=is_page_off)
        if g.wants_page or request.method == "OPTIONS":
            return
        blueprint, endpoint = request.blueprint, request.endpoint
        if blueprint not in without_key:
            g.caller = access.caller(request.headers)
            if blueprint is not None and blueprint not in FOR_EMBED:
                g.caller.require("admin")
        kind = kind_of(endpoint, blueprint)
        if kind is not None:
            admission.enter_for(request.environ, kind)
        if is_counted(endpoint, blueprint):
            count_request(meter, g.caller)

    def end(response: Response) -> Response:
        began, this, span = g.began, request_line(), g.span
        response.headers["x-request-id"] = g.request_id
        response.headers["openai-processing-ms"] = str(_ms_since(began))
        tell_rates(response)
        cors.tell(response)
        if response.is_sequence and (response.calculate_content_length() or 0) <= SMALL_ANSWER_BYTES:
            admission.leave_for(request.environ)

        def left() -> None:
            # When the last byte left: a download takes longer than the route that began it.
            log = logger.debug if this["blueprint"] in QUIET else logger.info
            log("request answered", status=response.status_code, ms=_ms_since(began), **this)
            _count(this, response.status_code, time.monotonic() - began)
            span.tell({"http.response.status_code": response.status_code})
            span.end(error=str(response.status_code) if response.status_code >= 500 else None)

        response.call_on_close(left)
        return response

    app.wsgi_app = admission.wrap(app.wsgi_app)  # type: ignore[method-assign]
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


def _begin_span() -> traces.Span:
    """The request's own, below the client's if it sent one."""
    method = request.method if request.method in METHODS else "_OTHER"
    route = request.url_rule.rule if request.url_rule else None
    span = traces.begin(
        f"{method} {route}" if route else method,
        request.headers.get("traceparent"),
        kind="server",
        facts={"http.request.method": method, "http.route": route, "request": g.request_id},
    )
    structlog.contextvars.bind_contextvars(trace=span.trace_id)
    return span


def _count(this: Mapping[str, str | int | None], status: int, seconds: float) -> None:
    # Neither is for the client to choose: it would be a time series each.
    route = str(this["route"] or "none")
    method = str(this["method"])
    metrics.REQUESTS.inc(1, route, method if method in METHODS else "other", str(status))
    metrics.REQUEST_SECONDS.observe(seconds, route)


def _ms_since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
