"""What a process counts of itself, alone or together with those beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared import counting, metrics
from shared.counting import Counter, Histogram
from tests.support.metrics_page import PAGE, metrics_page

# Two processes count, one of them dies, the third tells.
TOGETHER = """
import os, sys
from shared import counting, metrics
counting.count_together(sys.argv[1])
for dies in (True, False):
    child = os.fork()
    if child == 0:
        metrics.REQUESTS.inc(2, "/", "GET", "200")
        metrics.REQUEST_SECONDS.observe(0.3, "/")
        metrics.IN_PROGRESS.inc(1, "asks")
        os._exit(0)
    os.waitpid(child, 0)
    if dies:
        counting.forget_process(child)
print(counting.told(counting.registry_of(metrics.metrics_of("web")), "")[0].decode())
"""


def values_of(text: str) -> dict[str, float]:
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


def test_a_count_is_of_its_labels_and_can_be_read_back() -> None:
    texts = Counter("some_texts_total", "Texts.", "worker", ("model", "lane"))
    texts.inc(3, "m", "bulk")
    texts.inc(2, "m", "bulk")

    assert (texts.value("m", "bulk"), texts.value("m", "interactive")) == (5, 0)


def test_a_histogram_knows_its_sum() -> None:
    seconds = Histogram("some_seconds", "Seconds.", "worker", ("model",), (0.1, 1.0))
    seconds.observe(0.5, "m")
    seconds.observe(2.0, "m")

    assert seconds.sum("m") == 2.5


def test_processes_that_count_together_tell_the_sum_also_of_one_that_died(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", TOGETHER, str(tmp_path)], capture_output=True, text=True, check=True)

    told = values_of(ran.stdout)
    assert told["umekomi_requests_total"] == 4
    assert told["umekomi_request_duration_seconds_count"] == 2
    assert told["umekomi_requests_in_progress"] == 1  # of the one that was not forgotten
    assert told["umekomi_redis_errors_total"] == 0  # what never happened is told too


@pytest.mark.parametrize("process", ["web", "worker"])
def test_a_process_tells_what_is_its_own_and_what_both_tell(process: str) -> None:
    told, _ = counting.told(counting.registry_of(metrics.metrics_of(process)), "")

    names = {family.name for family in text_string_to_metric_families(told.decode())}
    assert ("umekomi_requests" in names) is (process == "web")
    assert ("umekomi_texts" in names) is (process == "worker")
    assert "umekomi_storage_errors" in names


def test_a_scraper_that_names_a_version_nobody_knows_is_answered() -> None:
    registry = counting.registry_of(metrics.metrics_of("web"))

    body, content_type = counting.told(registry, "application/openmetrics-text; version=nonsense")

    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")


def test_names_are_in_base_units_and_labels_are_few() -> None:
    found = metrics.all_metrics()
    known = {"model", "lane", "route", "method", "status", "code", "kind", "what", "outcome", "state", "doing", "version"}

    assert len({metric.name for metric in found}) == len(found)
    assert {label for metric in found for label in metric.labels} <= known
    for metric in found:
        assert metric.name.endswith("_total") is (metric.kind == "counter") or metric.name == "device_memory_total_bytes"
        assert not metric.name.endswith(("_ms", "_kb", "_mb", "_percent"))
        assert metric.help.endswith(".")


def test_the_page_lists_every_metric() -> None:
    assert PAGE.read_text() == metrics_page(), "write it with `make readme`"
