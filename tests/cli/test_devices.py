from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.devices import NoDevices, worker_devices
from cli.processes import worker_specs
from shared.settings import Settings
from tests.support.commands import Run


def devices(value: str, device: str = "auto") -> list[str]:
    return worker_devices(Settings(devices=value, device=device))


@pytest.fixture
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def smi(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    file = directory / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")


def test_one_worker_on_the_device_that_is_set() -> None:
    assert devices("", "cuda:3") == ["cuda:3"]


def test_a_list_is_taken_in_its_order() -> None:
    assert devices("cuda:2, 0,cpu") == ["cuda:2", "cuda:0", "cpu"]


@pytest.mark.parametrize("wrong", ["gpu0", "cuda:", "cuda:-1", "0;1", ",", " "])
def test_what_is_no_device_is_named(wrong: str) -> None:
    with pytest.raises(NoDevices, match="--devices"):
        devices(wrong)


@pytest.mark.usefixtures("no_variable")
def test_all_is_every_gpu_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, "echo 'GPU 0: NVIDIA X (UUID: GPU-a)'; echo 'GPU 1: NVIDIA X (UUID: GPU-b)'")

    assert devices("all") == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(("visible", "count"), [("2,3,5", 3), ("GPU-a", 1), ("0,-1,1", 1)])
def test_all_counts_only_the_gpus_that_cuda_may_see(visible: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert devices("all") == [f"cuda:{number}" for number in range(count)]


@pytest.mark.usefixtures("no_variable")
def test_all_without_a_gpu_is_an_error_and_no_worker_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    smi(tmp_path, monkeypatch, "exit 9")

    result = run("worker", "--devices", "all", "--data-dir", tmp_path / "data")

    assert result.exit_code == 1
    assert "no NVIDIA GPU" in result.stderr


def test_each_device_has_a_process_of_its_own() -> None:
    specs = worker_specs(["cuda:0", "cuda:1"], {"UMEKOMI_DEVICES": "all", "PATH": "/bin"})

    assert [spec.environment["UMEKOMI_DEVICE"] for spec in specs] == ["cuda:0", "cuda:1"]
    assert {spec.environment["UMEKOMI_DEVICES"] for spec in specs} == {""}
    assert len({spec.name for spec in specs}) == 2
