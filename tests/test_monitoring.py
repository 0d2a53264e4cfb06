"""Prometheus rules, the Grafana dashboard, and what Kubernetes is told of them: valid, and of metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.metrics import all_metrics

DEPLOY = Path(__file__).parent.parent / "deploy"
RULES, RULES_TEST = DEPLOY / "prometheus" / "alerts.yml", DEPLOY / "prometheus" / "alerts_test.yml"
DASHBOARD = DEPLOY / "grafana" / "umekomi.json"
MONITORING = DEPLOY / "kubernetes" / "monitoring"
ALERTS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
# Told, but on no panel: an average of loads, and what waits within one worker.
NOT_SHOWN = {"umekomi_model_load_seconds_total", "umekomi_engine_waiting_tokens"}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package prometheus has it")


def run(*command: object) -> str:
    ran = subprocess.run([str(one) for one in command], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def series() -> dict[str, set[str]]:
    """What a query may name, and by which labels."""
    found: dict[str, set[str]] = {}
    for metric in all_metrics():
        if metric.kind == "histogram":
            found |= {f"{metric.full_name}_{end}": {*metric.labels} for end in ("sum", "count")}
            found[f"{metric.full_name}_bucket"] = {*metric.labels, "le"}
        else:
            found[metric.full_name] = {*metric.labels}
    return found


def panels() -> Iterator[dict[str, Any]]:
    yield from json.loads(DASHBOARD.read_text())["panels"]


def expressions() -> Iterator[str]:
    yield from (alert["expr"] for alert in ALERTS)
    yield from (target["expr"] for panel in panels() for target in panel.get("targets", ()))
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        yield variable.get("definition", "")
    for trigger in yaml.safe_load((DEPLOY / "kubernetes" / "keda" / "scaledobject.yaml").read_text())["spec"]["triggers"]:
        yield trigger["metadata"]["query"]


def test_whatever_is_asked_for_is_told() -> None:
    known, asked = series(), set()
    for expression in expressions():
        for name, matchers in re.findall(r"(umekomi_\w+)(?:\{([^}]*)\})?", expression):
            asked.add(name)
            assert name in known, expression
            labels = {matcher.partition("=")[0].strip("!~ ") for matcher in matchers.split(",") if matcher}
            assert labels <= known[name], expression

    shown = asked | {re.sub(r"_(sum|count|bucket)$", "", name) for name in asked}
    assert {metric.full_name for metric in all_metrics()} - shown == NOT_SHOWN


def test_every_alert_says_what_is_wrong_and_how_bad_it_is() -> None:
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert alert["annotations"]["summary"]


def test_every_alert_has_a_case_in_which_it_fires_and_is_silent_at_peace() -> None:
    cases = yaml.safe_load(RULES_TEST.read_text())["tests"]
    silent = {test["alertname"] for case in cases for test in case["alert_rule_test"] if not test["exp_alerts"]}
    fires = {test["alertname"] for case in cases for test in case["alert_rule_test"] if test["exp_alerts"]}

    assert silent == fires == {alert["alert"] for alert in ALERTS}


@needs_promtool
def test_prometheus_takes_the_configuration_and_the_alerts_fire_as_they_should() -> None:
    run("promtool", "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    run("promtool", "check", "rules", RULES)
    run("promtool", "test", "rules", RULES_TEST)


@needs_promtool
def test_prometheus_takes_every_query_of_the_dashboard(tmp_path: Path) -> None:
    queries = [target["expr"].replace("$__rate_interval", "5m") for panel in panels() for target in panel.get("targets", ())]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    run("promtool", "check", "rules", tmp_path / "rules.yml")


def test_the_dashboard_takes_any_data_source_and_has_no_panel_twice() -> None:
    dashboard = json.loads(DASHBOARD.read_text())

    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "model"]
    assert {panel["datasource"]["uid"] for panel in panels() if panel["type"] != "row"} == {"${datasource}"}
    assert len({panel["id"] for panel in panels()}) == len(dashboard["panels"])
    rows = [panel["title"] for panel in panels() if panel["type"] == "row"]
    assert rows == ["At a glance", "Requests", "Lanes", "Engine", "Jobs", "Storage and Redis"]


def test_the_operator_gets_the_same_alerts() -> None:
    assert yaml.safe_load((MONITORING / "alerts.yaml").read_text())["spec"] == yaml.safe_load(RULES.read_text())


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl builds kustomizations")
def test_the_component_has_pods_scraped_where_they_tell(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "kubernetes", tmp_path / "kubernetes")
    mine = tmp_path / "kubernetes" / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text("namespace: umekomi\nresources: [../base]\ncomponents: [../monitoring]\n")

    built = list(yaml.safe_load_all(run("kubectl", "kustomize", mine)))

    monitors = {one["metadata"]["name"]: one["spec"] for one in built if one["kind"] == "PodMonitor"}
    pods = {one["metadata"]["name"]: one["spec"]["template"] for one in built if one["kind"] == "Deployment"}
    assert monitors.keys() == {"umekomi-web", "umekomi-worker"}
    for name, monitor in monitors.items():
        assert monitor["selector"]["matchLabels"].items() <= pods[name]["metadata"]["labels"].items()
        (container,) = pods[name]["spec"]["containers"]
        assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == [port["name"] for port in container["ports"]]
    variables = {name: {one["name"] for one in pod["spec"]["containers"][0].get("env", ())} for name, pod in pods.items()}
    assert "UMEKOMI_METRICS_OPEN" in variables["umekomi-web"]
    assert "UMEKOMI_METRICS_ADDRESS" in variables["umekomi-worker"]
