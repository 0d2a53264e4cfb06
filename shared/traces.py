"""Traces: one request or job followed over web, lane, engine and shards, when the standard OTEL_* variables ask for it.

    OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 umekomi serve          # pip install 'umekomi[otel]'

Unless they do nothing is imported, and a span costs a look at a variable. Spans are told by W3C's traceparent, which travels
in the ask and in the job's manifest. A span says which model, how many texts and tokens, which job; never a text, vector or key.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from shared.build import umekomi_version
from shared.errors import UmekomiError
from shared.logs import get_logger

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = get_logger(__name__)

Kind = Literal["internal", "server", "client", "consumer"]
Attribute = str | int | float | bool
# A collector that is away does not keep a process that is to end.
SHUT_DOWN_WITHIN_S = 3.0
_TRACEPARENT = "traceparent"
_NO_FACTS: Mapping[str, Attribute | None] = {}
_MAX_TRACEPARENT_CHARACTERS = 55  # of version 00; a longer one is of a version that does not exist yet

_current: ContextVar[Span | None] = ContextVar("span", default=None)
_provider: TracerProvider | None = None
_tracer: Any = None


class Span:
    """A piece of work that began. Without a tracer it does nothing."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: Any = None) -> None:
        self._span = span
        self.traceparent = None if span is None else _to_traceparent(span)

    @property
    def trace_id(self) -> str | None:
        """Of the trace that it belongs to, for the log."""
        return None if self.traceparent is None else self.traceparent.split("-")[1]

    def tell(self, facts: Mapping[str, Attribute | None]) -> None:
        """What was not known at its begin. OpenTelemetry's own names have a dot, ours get their prefix; None is not told."""
        if self._span is not None:
            self._span.set_attributes(_told(facts))

    def end(self, *, at: float | None = None, error: str | None = None) -> None:
        """It ended now, or at `at` (unix seconds); `error` is a code of ours."""
        if self._span is None:
            return
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(None if at is None else int(at * 1e9))


NO_SPAN = Span()


def set_up(process: str) -> None:
    """Begin to trace if the environment says so. Call it in the process that works, after any fork."""
    if not is_wanted():
        return
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = _exporter()
    except ImportError:
        logger.warning("traces are asked for, but not installed", install="pip install 'umekomi[otel]'")
        return
    says_service = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    name = {} if says_service else {"service.name": f"umekomi-{process}"}
    provider = TracerProvider(resource=Resource.create({**name, "service.version": umekomi_version()}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    use(provider)
    logger.info("tracing", exporter=type(exporter).__name__)


def is_wanted() -> bool:
    """Whether the variables of OpenTelemetry ask for traces."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if exporter := os.environ.get("OTEL_TRACES_EXPORTER", ""):
        return exporter != "none"
    return any(os.environ.get(name) for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))


def _exporter() -> Any:
    if os.environ.get("OTEL_TRACES_EXPORTER") == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    if os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf") != "http/protobuf":
        logger.warning("traces go as http/protobuf, whatever OTEL_EXPORTER_OTLP_PROTOCOL says")
    return OTLPSpanExporter()


def use(provider: TracerProvider | None) -> None:
    """Trace with this provider from now on; None: not at all."""
    global _provider, _tracer
    _provider = provider
    _tracer = None if provider is None else provider.get_tracer("umekomi", umekomi_version())


def shut_down() -> None:
    """Send what is left, and end."""
    provider = _provider
    if provider is None:
        return
    use(None)
    closing = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
    closing.start()
    closing.join(SHUT_DOWN_WITHIN_S)


def is_on() -> bool:
    """Whether spans go anywhere."""
    return _tracer is not None


def current() -> Span:
    """The span of this thread."""
    return _current.get() or NO_SPAN


def enter(span: Span) -> None:
    """Make it the span of this thread, until another one is."""
    _current.set(span)


def begin(
    name: str,
    parent: str | None = None,
    *,
    kind: Kind = "internal",
    at: float | None = None,
    facts: Mapping[str, Attribute | None] = _NO_FACTS,
) -> Span:
    """A span that began now, or at `at` (unix seconds), below `parent`, a traceparent; without one a trace of its own."""
    if _tracer is None:
        return NO_SPAN
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    above = Context()
    if parent is not None and len(parent) <= _MAX_TRACEPARENT_CHARACTERS:
        above = TraceContextTextMapPropagator().extract({_TRACEPARENT: parent}, above)
    start = None if at is None else int(at * 1e9)
    return Span(_tracer.start_span(name, above, SpanKind[kind.upper()], _told(facts), start_time=start))


@contextmanager
def span(
    name: str, parent: str | None = None, *, kind: Kind = "internal", facts: Mapping[str, Attribute | None] = _NO_FACTS
) -> Iterator[Span]:
    """The span of this thread for the block, below `parent` or the one before; what the block raises is told by its code."""
    if _tracer is None:
        yield NO_SPAN
        return
    begun = begin(name, parent or current().traceparent, kind=kind, facts=facts)
    before = _current.set(begun)
    error: str | None = None
    try:
        yield begun
    except UmekomiError as wrong:
        error = wrong.reason
        raise
    except BaseException as wrong:
        error = type(wrong).__name__
        raise
    finally:
        _current.reset(before)
        begun.end(error=error)


def past(name: str, parent: str | None, began_at: float, ended_at: float) -> Span:
    """A span that is over already: unix seconds."""
    made = begin(name, parent, at=began_at)
    made.end(at=ended_at)
    return made


def unix_of(monotonic: float) -> float:
    """When this was, in unix seconds."""
    return time.time() - (time.monotonic() - monotonic)


def _told(facts: Mapping[str, Attribute | None]) -> dict[str, Attribute]:
    return {f"umekomi.{name}" if "." not in name else name: value for name, value in facts.items() if value is not None}


def _to_traceparent(span: Any) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
