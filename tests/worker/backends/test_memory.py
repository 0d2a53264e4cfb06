"""Memory: a model that is unloaded gives it back. In a process of its own, for what tests leave in this one is no model's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from worker.backends.memory import memory_in_use, weights_bytes

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(sys.platform != "linux", reason="measures RSS in /proc, and tells glibc")
def test_the_real_model_gives_its_memory_back_each_time() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "bench.residency", "--times", "2", "--rows", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r"worst after unload: \+?(-?\d+) MB; .* last: ([+-]\d+) MB", run.stdout)
    assert found is not None, run.stdout + run.stderr
    worst_mb, growth_mb = map(int, found.groups())
    # Of code that a first batch needs 20 MB stay, by processor some more or less; the weights alone would be 90.
    assert worst_mb < 70, run.stdout
    assert growth_mb < 15, run.stdout


def test_the_size_of_the_weights_is_told_from_one_kind_of_file(tmp_path: Path) -> None:
    assert weights_bytes(None) == weights_bytes(tmp_path) == 0
    (tmp_path / "model.safetensors").write_bytes(b"x" * 30)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 31)
    assert weights_bytes(tmp_path) == 30


def test_the_memory_of_a_cpu_is_that_of_the_process() -> None:
    assert sys.platform != "linux" or memory_in_use("cpu") > 10 * 2**20


def test_a_gpu_on_which_nothing_was_loaded_yet_has_nothing_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    assert memory_in_use("cuda:0") == 0
