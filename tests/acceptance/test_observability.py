"""What an operator sees of real processes: /metrics of both, traces at a collector, and logs without anybody's words or keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.api import FakeApi, Reply, running_api
from tests.support.service import Service, running_service
from tests.support.valkey import free_port

# In every text, id, metadata and key that the tests send.
MARKER = "zqxjkv"
KEY = f"sk-{MARKER}-key"
EMBED = "/v1/embeddings"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
MODELS = f"- {{name: m, backend: fake, default: true, parameters: {{model: 'fake?poison=raise:{MARKER}poison'}}}}\n"

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True)
class Seen:
    """A service and what watches it."""

    service: Service
    collector: FakeApi
    worker_metrics: str

    def client(self) -> httpx.Client:
        return self.service.client(headers={"Authorization": f"Bearer {KEY}"})

    def web(self) -> Series:
        with self.client() as client:
            answer = client.get("/metrics")
        assert answer.status_code == 200, answer.text
        return series(answer.text)

    def worker(self) -> Series:
        return series(httpx.get(self.worker_metrics, timeout=10).text)

    def spans(self) -> list[dict[str, Any]]:
        found = []
        for asked in list(self.collector.asked):
            for resource in ExportTraceServiceRequest.FromString(asked.body).resource_spans:
                service = {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"]
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    facts = {one.key: one.value.string_value or one.value.int_value for one in span.attributes}
                    ids = {"id": span.span_id.hex(), "parent": span.parent_span_id.hex(), "trace": span.trace_id.hex()}
                    found.append({"service": service, "name": span.name, "facts": facts, **ids})
        return found


def series(text: str) -> Series:
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


def total(found: Series, name: str, **labels: str) -> float:
    """Of all series of the name that have these labels."""
    return sum(value for (each, own), value in found.items() if each == name and labels.items() <= dict(own).items())


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    port = free_port()
    with running_api() as collector:
        collector.on("POST", "/v1/traces", Reply(b""))
        directory = tmp_path_factory.mktemp("seen")
        environment = {"TMPDIR": str(directory), "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with running_service(
            directory,
            models=MODELS,
            environment=environment,
            api_keys=KEY,
            web_processes=2,
            metrics_address=f"127.0.0.1:{port}",
            reconcile_interval_s=0.5,
            shards_at_once=1,
            log_level="debug",
        ) as service:
            yield Seen(service, collector, f"http://127.0.0.1:{port}/metrics")
        assert not list(directory.glob("umekomi-metrics-*")), "the counts go with the server"
        lines = [line for file in directory.glob("logs/*.log") for line in file.read_text().splitlines()]
        assert [line for line in lines if not line.startswith("{")] == [], "to the last one they are JSON"


def finished_job(seen: Seen, client: httpx.Client, **fields: Any) -> dict[str, Any]:
    rows = [{"id": f"{MARKER}-{row}", "text": f"{MARKER} row {row}", "metadata": {"m": MARKER}} for row in range(20)]
    job = client.post(f"{EMBED}/jobs", json={"model": "m", "input": rows, **fields}).json()
    seen.service.wait_for(lambda: client.get(f"{EMBED}/jobs/{job['id']}").json()["status"] == "completed", "the job")
    return dict(job)


def test_one_scrape_tells_of_all_gunicorn_processes_and_of_the_installation(seen: Seen) -> None:
    before = seen.web()
    assert len(list(seen.service.directory.glob("umekomi-metrics-*/counter_*.db"))) == 2
    for number in range(24):
        # A connection each: the kernel deals them to both processes.
        with seen.client() as client:
            answer = client.post(EMBED, json={"input": [f"{MARKER} {number}", "b"]})
            assert answer.status_code == 200, answer.text
            client.post(EMBED, json={"model": f"{MARKER}-{number}", "input": "x"})
    after = seen.web()

    def grown(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert grown("umekomi_requests_total", route=EMBED, method="POST", status="200") == 24
    assert grown("umekomi_request_duration_seconds_count", route=EMBED) == 48
    assert grown("umekomi_ask_duration_seconds_count", model="m") == 24
    assert grown("umekomi_ask_texts_total", model="m") == 48
    assert grown("umekomi_errors_total", code="model_not_found") == 24
    assert not [labels for _, labels in after if MARKER in str(labels)]  # a name from outside is no label
    for reading, value in (("workers", 1), ("redis_up", 1), ("storage_up", 1)):
        assert total(after, f"umekomi_{reading}") == value
    assert total(after, "umekomi_model_workers", model="m", state="ready") == 1
    assert {dict(labels)["lane"] for name, labels in after if name == "umekomi_lane_waiting_tokens"} == {"interactive", "bulk"}


def test_a_worker_tells_what_its_engine_did_by_lane(seen: Seen) -> None:
    before = seen.worker()
    with seen.client() as client:
        client.post(EMBED, json={"input": [f"{MARKER} engine one two", "short"]})
        finished_job(seen, client)
    after = seen.worker()

    assert (
        total(after, "umekomi_texts_total", model="m", lane="interactive")
        - total(before, "umekomi_texts_total", model="m", lane="interactive")
        == 2
    )
    assert total(after, "umekomi_texts_total", lane="bulk") - total(before, "umekomi_texts_total", lane="bulk") == 20
    assert total(after, "umekomi_padded_tokens_total") >= total(after, "umekomi_tokens_total") > 0
    assert total(after, "umekomi_shards_run_total", outcome="embedded") > total(before, "umekomi_shards_run_total")
    assert total(after, "umekomi_jobs_finished_total", status="completed") >= 1
    assert total(after, "umekomi_model_loads_total", model="m") == 1
    assert total(after, "umekomi_device_memory_total_bytes") > 0


def test_a_trace_follows_a_question_and_a_job_into_the_engine(seen: Seen) -> None:
    with seen.client() as client:
        client.headers["traceparent"] = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
        assert client.post(EMBED, json={"input": f"{MARKER} traced"}).status_code == 200
        job = finished_job(seen, client)

    def of_the_trace() -> list[dict[str, Any]]:
        return [span for span in seen.spans() if span["trace"] == TRACE_ID]

    def path(span: dict[str, Any]) -> list[str]:
        """The names of the spans above one, from the client's downwards."""
        above = [one for one in of_the_trace() if one["id"] == span["parent"]]
        return [*(path(above[0]) if above else ["client"] if span["parent"] == "00f067aa0ba902b7" else ["?"]), span["name"]]

    wanted = [
        ["client", f"POST {EMBED}", "ask", "answer", "embed"],
        ["client", f"POST {EMBED}", "ask", "answer", "queue"],
        ["client", f"POST {EMBED}/jobs", "shard", "embed"],
        ["client", f"POST {EMBED}/jobs", "shard", "queue"],
    ]
    seen.service.wait_for(lambda: all(one in [path(span) for span in of_the_trace()] for one in wanted), "the spans")
    spans = of_the_trace()
    assert {span["service"] for span in spans} == {"umekomi-web", "umekomi-worker"}
    assert [span["facts"]["umekomi.rows"] for span in spans if span["name"] == "shard"] == [20]
    assert {span["facts"].get("umekomi.job") for span in spans if span["name"] == "shard"} == {job["id"]}
    assert not [asked for asked in seen.collector.asked if MARKER.encode() in asked.body]


def test_no_log_of_any_process_holds_a_text_an_id_or_a_key(seen: Seen) -> None:
    with seen.client() as client:
        client.post(EMBED, json={"input": f"{MARKER}poison fails"})
        client.post(EMBED, json={"input": [MARKER, 5]})
        client.post(EMBED, content=f'{{"input": "{MARKER}', headers={"Content-Type": "application/json"})
        client.post(f"/v1/{MARKER}?q={MARKER}", json={"input": MARKER})
        client.post(EMBED, json={"input": "x"}, headers={"Authorization": f"Bearer wrong-{MARKER}"})
        client.post(f"{EMBED}/jobs", content=f"{MARKER}\n{{", headers={"Content-Type": "application/x-ndjson"})
        job = finished_job(seen, client, metadata={MARKER: MARKER})
        lines = [f'{{"id": "{MARKER}-bad"}}', f'{{"text": "{MARKER}poison"}}', f"{{{MARKER}"]
        client.post(f"{EMBED}/jobs?model=m", content="\n".join(lines), headers={"Content-Type": "application/x-ndjson"})
        client.get(f"{EMBED}/jobs/{job['id']}/results")
        seen.service.wait_for(lambda: client.get(f"{EMBED}/jobs").json()["data"][0]["status"] != "in_progress", "the last job")

    logs = {file: file.read_text() for file in seen.service.directory.glob("logs/*.log")}

    assert any("worker" in file.name for file in logs)
    assert [line for text in logs.values() for line in text.splitlines() if MARKER in line] == []
    for text in logs.values():
        for line in text.splitlines():
            fact = json.loads(line)
            assert isinstance(fact["event"], str), line
    facts = [json.loads(line) for text in logs.values() for line in text.splitlines()]
    assert {"request answered", "job submitted", "shard embedded", "job finished", "model failed"} <= {
        fact["event"] for fact in facts
    }
    assert all("request" in fact for fact in facts if fact["event"] == "request answered")
    assert all("job" in fact for fact in facts if fact["event"] == "shard embedded")


def test_without_a_key_of_an_admin_nobody_reads_the_metrics_of_web(seen: Seen) -> None:
    assert httpx.get(f"{seen.service.url}/metrics").status_code == 401
    assert httpx.get(seen.worker_metrics.replace("/metrics", "/other")).status_code == 404
