"""Traces: asked for by OpenTelemetry's own variables, told by traceparent, and silent about texts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared import traces
from shared.errors import InvalidParameter

CLIENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traces.use(provider)
    yield exporter
    traces.shut_down()


@pytest.mark.parametrize(
    ("variables", "is_wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SERVICE_NAME": "alone"}, False),
    ],
)
def test_the_standard_variables_decide(variables: dict[str, str], is_wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OTEL_SDK_DISABLED",
        "OTEL_TRACES_EXPORTER",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert traces.is_wanted() is is_wanted


def test_untraced_a_span_is_nothing_and_changes_nothing() -> None:
    with traces.span("shard", CLIENT) as span:
        span.tell({"rows": 5})

    assert (span.traceparent, span.trace_id, traces.is_on()) == (None, None, False)


def test_a_span_is_below_the_one_that_is_named_or_the_one_around_it(exported: InMemorySpanExporter) -> None:
    with traces.span("shard", CLIENT, facts={"rows": 5, "job": None}) as outer, traces.span("embed"):
        pass

    inner, shard = exported.get_finished_spans()
    assert (shard.name, inner.name) == ("shard", "embed")
    assert outer.trace_id == CLIENT.split("-")[1]
    assert shard.parent is not None
    assert inner.parent is not None
    assert f"{shard.parent.span_id:016x}" == CLIENT.split("-")[2]
    assert inner.parent.span_id == shard.context.span_id
    assert dict(shard.attributes or {}) == {"umekomi.rows": 5}


@pytest.mark.parametrize("parent", ["", "nonsense", CLIENT + "x" * 10_000, "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_traceparent_that_is_none_begins_a_trace_of_its_own(exported: InMemorySpanExporter, parent: str) -> None:
    traces.begin("request", parent).end()

    (span,) = exported.get_finished_spans()
    assert span.parent is None


def test_an_error_is_told_by_its_code_and_never_by_its_words(exported: InMemorySpanExporter) -> None:
    with pytest.raises(InvalidParameter), traces.span("ask"):
        raise InvalidParameter("somebody's text", param="input")

    (span,) = exported.get_finished_spans()
    assert span.status.description == "invalid_value"
    assert "somebody" not in span.to_json()
    assert traces.current() is traces.NO_SPAN
