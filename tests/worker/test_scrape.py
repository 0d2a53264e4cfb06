"""A worker's own /metrics."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.valkey import free_port
from worker.scrape import MetricsServer, Standing

STANDING = Standing("cpu", lambda: {"interactive": 3, "bulk": 5})


@contextmanager
def serving(address: str) -> Iterator[MetricsServer]:
    server = MetricsServer(address, STANDING)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def test_it_tells_what_waits_and_what_the_device_holds() -> None:
    with serving(f"127.0.0.1:{free_port()}") as server:
        answer = httpx.get(f"http://127.0.0.1:{server.port}/metrics")

    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    waiting = {sample.labels["lane"]: sample.value for sample in samples if sample.name == "umekomi_engine_waiting_tokens"}
    assert waiting == {"interactive": 3, "bulk": 5}
    memory = {sample.name: sample.value for sample in samples if "device_memory" in sample.name}
    assert 0 < memory["umekomi_device_memory_used_bytes"] < memory["umekomi_device_memory_total_bytes"]


def test_workers_of_one_host_share_the_setting() -> None:
    address = f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        ports = [stack.enter_context(serving(address)).port for _ in range(3)]

    assert len({port for port in ports if port is not None}) == 3


def test_a_worker_serves_no_metrics_unless_it_is_told_to_and_works_without_an_address_of_its_own() -> None:
    for address in ("", "192.0.2.1:9464"):
        with serving(address) as server:
            assert server.port is None


def test_a_scraper_that_breaks_off_leaves_the_server_as_it_was() -> None:
    with serving(f"127.0.0.1:{free_port()}") as server:
        assert server.port is not None
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.putrequest("GET", "/metrics")
        connection.close()

        assert httpx.get(f"http://127.0.0.1:{server.port}/metrics").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{server.port}/").status_code == 404
