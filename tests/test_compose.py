"""The containers as files: Dockerfile, docker-compose.yml, its GPU override and `make up` keep the promises operators rely on."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from shared.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parent.parent
IMAGES = ("web", "worker")


@dataclass
class Stage:
    """One FROM of the Dockerfile and what follows it."""

    parent: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """The arguments of every such step, in order."""
        return [argument for name, argument in self.steps if name == instruction]


def read_stages(dockerfile: str) -> dict[str, Stage]:
    """Stages by name. Knows what our Dockerfile uses: comments, continued lines, named stages."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        instruction, _, argument = line.strip().partition(" ")
        if instruction == "FROM":
            parent, _, name = argument.partition(" AS ")
            stages[name] = current = Stage(parent)
        elif instruction:
            current.steps.append((instruction, " ".join(argument.split())))
    return stages


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    return read_stages((ROOT / "Dockerfile").read_text())


def lineage(stages: dict[str, Stage], name: str) -> list[tuple[str, str]]:
    """Every step that ends up in the image of a stage, its parents' first."""
    steps: list[tuple[str, str]] = []
    while name in stages:
        steps = stages[name].steps + steps
        name = stages[name].parent
    return steps


def read_compose(name: str) -> dict[str, Any]:
    compose: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return compose


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = read_compose("docker-compose.yml")["services"]
    return {name: service for name, service in found.items() if "profiles" not in service}


@pytest.fixture(scope="module")
def monitoring() -> dict[str, Any]:
    found: dict[str, Any] = read_compose("docker-compose.yml")["services"]
    return {name: service for name, service in found.items() if service.get("profiles") == ["monitoring"]}


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


# docker-compose.yml


def test_valkey_keeps_an_append_only_file_in_a_volume_and_evicts_nothing(services: dict[str, Any]) -> None:
    valkey = services["valkey"]
    assert option(valkey["command"], "--appendonly") == "yes"
    assert option(valkey["command"], "--maxmemory-policy") == "noeviction"
    assert [mount.split(":")[1] for mount in valkey["volumes"]] == [option(valkey["command"], "--dir")]


def test_every_service_has_a_health_check_and_comes_back_by_itself(services: dict[str, Any]) -> None:
    assert set(services) == {"valkey", "web", "worker"}
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] == "CMD", f"{name}: exec form, without a shell"


def test_web_alone_publishes_a_port_and_only_on_this_machine(services: dict[str, Any]) -> None:
    assert services["web"]["ports"] == ["${UMEKOMI_PUBLISH:-127.0.0.1:8080}:8080"]
    assert services["web"]["environment"]["UMEKOMI_ADDRESS"].endswith(":8080")
    assert "ports" not in services["valkey"]


def test_the_worker_can_be_scaled(services: dict[str, Any]) -> None:
    assert not {"container_name", "hostname", "ports"} & set(services["worker"])


@pytest.mark.parametrize("image", IMAGES)
def test_a_service_runs_its_own_target(services: dict[str, Any], stages: dict[str, Stage], image: str) -> None:
    assert services[image]["build"]["target"] == image
    assert image in stages
    assert services[image]["image"].split(":")[0] == f"umekomi-{image}"


def test_build_arguments_are_declared_in_the_target(stages: dict[str, Stage]) -> None:
    for file in ("docker-compose.yml", "docker-compose.gpu.yml"):
        arguments = read_compose(file)["services"]["worker"]["build"]["args"]
        declared = {argument.partition("=")[0] for argument in stages["worker"].all("ARG")}
        assert set(arguments) <= declared, file


def test_web_and_worker_share_storage_models_and_valkey(services: dict[str, Any]) -> None:
    web, worker = services["web"], services["worker"]
    assert web["volumes"] == worker["volumes"]
    mounted = [Path(mount.split(":")[1]) for mount in web["volumes"] if ":" in mount]
    for name in ("UMEKOMI_REDIS_URL", "UMEKOMI_STORAGE_URL", "UMEKOMI_CONFIG_FILE"):
        assert web["environment"][name] == worker["environment"][name]
    assert Path("/data") in mounted
    assert Path(web["environment"]["UMEKOMI_STORAGE_URL"]).is_relative_to("/data")
    assert Path(web["environment"]["UMEKOMI_CONFIG_FILE"]) in mounted


def test_every_variable_is_a_setting(services: dict[str, Any]) -> None:
    gpu = read_compose("docker-compose.gpu.yml")["services"]["worker"]
    for service in (services["web"], services["worker"], gpu):
        for variable in service["environment"]:
            assert variable.removeprefix(ENV_PREFIX).lower() in Settings.model_fields, variable


def test_a_stopping_web_outlives_the_longest_synchronous_request(services: dict[str, Any]) -> None:
    grace_s = int(services["web"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings.model_fields["interactive_timeout_s"].default


@pytest.mark.parametrize("name", ["valkey", *IMAGES])
def test_a_container_can_write_to_its_volumes_alone_and_gain_no_rights(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    # gunicorn and Parquet uploads write here.
    assert name == "valkey" or "tmp:/tmp" in service["volumes"]


def test_the_override_of_the_readme_gives_both_images_the_directory_it_names() -> None:
    (written,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "deploy" / "README.md").read_text(), re.DOTALL)
    override = yaml.safe_load(written)["services"]
    assert set(override) == set(IMAGES)
    for service in override.values():
        assert [mount.split(":")[1] for mount in service["volumes"]] == [service["environment"]["UMEKOMI_MODELS_PATH"]]


def test_no_container_leaves_a_nameless_volume_behind_or_logs_without_end(
    services: dict[str, Any], monitoring: dict[str, Any]
) -> None:
    named = read_compose("docker-compose.yml")["volumes"]
    for name, service in {**services, **monitoring}.items():
        for mount in service["volumes"]:
            source, _, target = mount.partition(":")
            assert target, f"{name}: {mount} is new at each `up`, and stays at each `down`"
            assert source.startswith("./") or source in named, name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name


def test_the_gpu_override_gives_the_workers_every_card_a_process_each_and_changes_nothing_else(services: dict[str, Any]) -> None:
    override = read_compose("docker-compose.gpu.yml")["services"]
    assert set(override) == {"worker"}
    (device,) = override["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    assert device["count"] == "all"
    assert override["worker"]["environment"] == {"UMEKOMI_DEVICES": "${UMEKOMI_DEVICES:-all}"}
    assert override["worker"]["image"] != services["worker"]["image"]


def test_the_monitoring_profile_scrapes_web_and_workers_and_shows_the_dashboard(
    services: dict[str, Any], monitoring: dict[str, Any]
) -> None:
    assert set(monitoring) == {"prometheus", "grafana"}
    for service in monitoring.values():
        assert service["read_only"] is True
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        sources = [mount.split(":")[0] for mount in service["volumes"] if mount.startswith("./")]
        assert all((ROOT / source).exists() for source in sources)
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "compose.yml").read_text())
    alone = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    # The alerts know them by these names.
    assert [job["job_name"] for job in scraped["scrape_configs"]] == [job["job_name"] for job in alone["scrape_configs"]]
    assert scraped["rule_files"] == alone["rule_files"]
    for job, name in zip(scraped["scrape_configs"], ("web", "worker"), strict=True):
        variable = "UMEKOMI_ADDRESS" if name == "web" else "UMEKOMI_METRICS_ADDRESS"
        (found,) = job["dns_sd_configs"]
        assert found["names"] == [name]
        assert services[name]["environment"][variable].endswith(f":{found['port']}")
    (source,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/umekomi.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"


# Dockerfile


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_a_numbered_user_who_is_not_root(stages: dict[str, Stage], image: str) -> None:
    user = [argument for name, argument in lineage(stages, image) if name == "USER"][-1]
    uid, gid = user.split(":")
    assert int(uid) >= 1000
    assert int(gid) >= 1000


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_becomes_its_own_process_without_a_shell(stages: dict[str, Stage], image: str) -> None:
    assert [json.loads(command) for command in stages[image].all("CMD")] == [["umekomi", image]]
    assert stages[image].all("STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.parametrize("image", IMAGES)
def test_a_container_that_starts_hears_that_it_is_to_stop(stages: dict[str, Stage], image: str) -> None:
    """The kernel spares process 1 what it has no handler for: that is one which only passes signals on, to its one child."""
    found = lineage(stages, image)
    assert [json.loads(argument) for name, argument in found if name == "ENTRYPOINT"] == [["dumb-init", "--single-child", "--"]]
    assert any("install dumb-init==" in argument for name, argument in found if name == "RUN")


@pytest.mark.parametrize("image", IMAGES)
def test_image_and_service_are_checked_in_the_same_way_with_python_alone(
    services: dict[str, Any], stages: dict[str, Stage], image: str
) -> None:
    (check,) = stages[image].all("HEALTHCHECK")
    command = json.loads(check.partition(" CMD ")[2])
    assert services[image]["healthcheck"]["test"] == ["CMD", *command]
    assert command == ["python", "-m", "cli.health", image]


def test_the_web_image_installs_no_model_library(stages: dict[str, Stage]) -> None:
    installed = [argument for name, argument in lineage(stages, "web") if name in ("RUN", "COPY")]
    assert any("core.txt" in step for step in installed)
    assert not [step for step in installed if "torch" in step or "worker.txt" in step]


def test_what_web_depends_on_leads_to_no_model_library() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    heavy = {"torch", "sentence-transformers", "transformers", "tokenizers", "onnxruntime"}
    assert not heavy & closure(project["dependencies"] + extras["s3"])
    assert heavy & closure(extras["worker"]), "the walk finds what is there"


def closure(requirements: list[str]) -> set[str]:
    """Canonical names of what these requirements install here, however deep."""
    waiting = [(Requirement(line), "") for line in requirements]
    followed: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in {"", *requirement.extras} - {seen for known, seen in followed if known == name}:
            followed.add((name, wanted))
            with suppress(PackageNotFoundError):  # meant for another platform
                waiting += [(Requirement(line), wanted) for line in requires(name) or []]
    return {name for name, _ in followed}


def test_the_images_get_what_their_processes_need_and_traces_and_s3_with_it(stages: dict[str, Stage], tmp_path: Path) -> None:
    (step,) = stages["requirements"].all("RUN")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    subprocess.run(["sh", "-c", step], cwd=tmp_path, check=True)

    core, worker = [
        {canonicalize_name(Requirement(line).name) for line in (tmp_path / f"{name}.txt").read_text().splitlines()}
        for name in ("core", "worker")
    ]

    assert {"flask", "gunicorn", "celery", "s3fs", "opentelemetry-sdk"} <= core
    assert {"torch", "sentence-transformers", "onnxruntime"} <= worker
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert core | worker <= {canonicalize_name(name) for name in pinned}


def test_the_standard_library_is_compiled_before_root_is_given_up(stages: dict[str, Stage]) -> None:
    assert [step for step in stages["base"].all("RUN") if "compileall" in step]
    assert not stages["base"].all("USER")


@pytest.mark.parametrize("image", IMAGES)
def test_a_change_of_code_installs_no_dependency_again(stages: dict[str, Stage], image: str) -> None:
    steps = [argument for name, argument in lineage(stages, image) if name in ("RUN", "COPY")]
    code = steps.index("--from=wheel /wheels /wheels")
    assert steps[code + 1 :] == ["pip install --no-deps /wheels/*.whl"]
    for step in steps[:code]:
        assert "pip install" not in step or "constraint" in step or "==" in step, f"unpinned: {step}"


def test_docker_ignores_all_but_what_the_dockerfile_copies(stages: dict[str, Stage]) -> None:
    copied = {
        source
        for stage in stages.values()
        for argument in stage.all("COPY")
        if not argument.startswith("--from")
        for source in shlex.split(argument)[:-1]
    }
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied
    for source in copied:
        assert (ROOT / source).exists(), source


def test_the_dockerfile_needs_no_buildkit() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "--mount" not in dockerfile
    assert "<<" not in dockerfile


# Makefile

# Stands for `docker compose`: notes what it is asked, and says whether the worker's model is loaded from the second time on.
COMPOSE = """#!/bin/sh
echo "$@" >> {asked}
case "$1" in
    exec) test "$(grep -c ^exec {asked})" -ge {ready_at} ;;
    port) echo 127.0.0.1:8080 ;;
esac
"""


def make(tmp_path: Path, *arguments: str, ready_at: int = 2) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What make says, and what it asked of compose."""
    asked, compose = tmp_path / "asked", tmp_path / "compose"
    compose.write_text(COMPOSE.format(asked=asked, ready_at=ready_at))
    compose.chmod(0o755)
    command = ["make", "--no-print-directory", *arguments, f"COMPOSE={compose}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return ended, asked.read_text().splitlines()


def test_make_up_waits_for_a_model_and_tells_where_to_ask(tmp_path: Path) -> None:
    ended, asked = make(tmp_path, "up")

    assert ended.returncode == 0, ended.stderr
    assert asked == ["up --build --detach", *["exec -T worker python -m cli.health worker-ready"] * 2, "port web 8080"]
    (curl,) = [line for line in ended.stdout.splitlines() if line.startswith("curl ")]
    address, _, _, _, body = shlex.split(curl)[1:]
    assert address == "http://127.0.0.1:8080/v1/embeddings"
    served = yaml.safe_load((ROOT / "models.yaml").read_text())
    assert json.loads(body)["model"] in [entry["name"] for entry in served]


def test_make_up_gives_up_on_a_model_that_does_not_come_and_says_where_to_look(tmp_path: Path) -> None:
    ended, asked = make(tmp_path, "up", "READY_WITHIN_S=0", ready_at=99)

    assert ended.returncode != 0
    assert "logs worker" in ended.stdout
    assert len(asked) == 2


def test_make_down_keeps_the_volumes(tmp_path: Path) -> None:
    assert make(tmp_path, "down")[1] == ["down"]
