"""deploy/ as files: what Kubernetes and systemd are told is valid, complete, and what the README beside it promises."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cli.health import CHECKS
from shared import metrics
from shared.models import read_registry
from shared.settings import ENV_PREFIX, Settings

DEPLOY = Path(__file__).parent.parent / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
VERSION = "1.30"
Manifest = dict[str, Any]


def read(*files: Path) -> list[Manifest]:
    return [manifest for file in files for manifest in yaml.safe_load_all(file.read_text()) if manifest]


NO_MANIFESTS = ("kustomization.yaml", "models.yaml")
MANIFESTS = read(*(file for file in sorted((KUBERNETES / "base").glob("*.yaml")) if file.name not in NO_MANIFESTS))
WORKLOADS = [manifest for manifest in MANIFESTS if "template" in manifest.get("spec", {})]
PODS: dict[str, Any] = {manifest["metadata"]["name"]: manifest["spec"]["template"]["spec"] for manifest in WORKLOADS}


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: f"{manifest['kind']}-{manifest['metadata']['name']}")
def test_every_manifest_fits_the_schema_of_kubernetes(manifest: Manifest) -> None:
    kubernetes_validate.validate(manifest, VERSION, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl builds kustomizations")
@pytest.mark.parametrize("directory", ["base", "gpu", "one-node", "keda"])
def test_every_kustomization_builds_and_its_pods_stay_valid(directory: str) -> None:
    built = subprocess.run(["kubectl", "kustomize", str(KUBERNETES / directory)], capture_output=True, text=True, check=True)

    manifests = [manifest for manifest in yaml.safe_load_all(built.stdout) if not manifest["apiVersion"].startswith("keda.sh")]

    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    limits = [
        container["resources"]["limits"]
        for manifest in manifests
        if manifest["metadata"]["name"] == "umekomi-worker" and manifest["kind"] == "Deployment"
        for container in manifest["spec"]["template"]["spec"]["containers"]
    ]
    assert [("nvidia.com/gpu" in limit) for limit in limits] == [directory == "gpu"] * len(limits)


@pytest.mark.parametrize("name", PODS)
def test_no_container_is_root_or_can_write_where_no_volume_is(name: str) -> None:
    pod = PODS[name]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= container["resources"].keys()
        assert {"startupProbe", "livenessProbe"} <= container.keys()


@pytest.mark.parametrize("name", ["umekomi-web", "umekomi-worker"])
def test_rollouts_start_the_new_before_the_old_goes_and_a_budget_guards_drains(name: str) -> None:
    (deployment,) = [m for m in MANIFESTS if m["kind"] == "Deployment" and m["metadata"]["name"] == name]
    (budget,) = [m for m in MANIFESTS if m["kind"] == "PodDisruptionBudget" and m["metadata"]["name"] == name]

    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert budget["spec"]["selector"] == deployment["spec"]["selector"]
    assert PODS[name]["terminationGracePeriodSeconds"] > Settings().interactive_timeout_s + 8


def test_a_rollout_waits_for_the_models_of_the_new_worker() -> None:
    (worker,) = PODS["umekomi-worker"]["containers"]
    assert worker["readinessProbe"]["exec"]["command"] == ["python", "-m", "cli.health", "worker-ready"]
    assert "worker-ready" in CHECKS


def test_the_api_is_reloaded_without_a_restart() -> None:
    assert "ExecReload=/bin/kill -HUP $MAINPID" in (DEPLOY / "systemd" / "umekomi-web.service").read_text()


def test_every_variable_set_in_deploy_is_a_setting() -> None:
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    for file in [*KUBERNETES.rglob("*"), *(DEPLOY / "systemd").iterdir()]:
        if file.is_file() and file.suffix != ".md":
            found = set(re.findall(rf"^\s*(?:- name: |- |Environment=)?({ENV_PREFIX}[A-Z_]+)=?", file.read_text(), re.MULTILINE))
            assert found <= known, file


def test_the_models_that_kubernetes_serves_are_valid() -> None:
    assert not read_registry(KUBERNETES / "base" / "models.yaml").problems


def test_scaling_asks_for_a_metric_by_the_name_it_has() -> None:
    (scaled,) = read(KUBERNETES / "keda" / "scaledobject.yaml")

    assert metrics.LANE_WAITING_TOKENS.full_name in scaled["spec"]["triggers"][0]["metadata"]["query"]
    assert scaled["spec"]["scaleTargetRef"]["name"] in PODS


@pytest.mark.parametrize("unit", sorted((DEPLOY / "systemd").glob("*.service")), ids=lambda file: file.name)
def test_a_unit_restarts_what_dies_and_waits_for_what_runs(unit: Path) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    service = parser["Service"]

    assert service["Restart"] == "always"
    assert float(service["TimeoutStopSec"]) >= 45
    assert service["NoNewPrivileges"] == "yes"
    assert re.fullmatch(r"/opt/umekomi/bin/umekomi (serve|web|worker --device %I)", service["ExecStart"])
