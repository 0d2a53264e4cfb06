"""The device and its streams."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worker.backends.devices import cores, resolve_device


def test_a_named_device_stays() -> None:
    assert resolve_device("cuda:1") == "cuda:1"


def test_auto_is_a_device_that_is_there() -> None:
    import torch

    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert resolve_device("auto") == "cpu"
    else:
        assert resolve_device("auto") in ("cuda", "mps")


@pytest.mark.parametrize(
    ("limit", "expected"), [("max 100000", None), ("100000 100000", 1), ("20000 100000", 1), ("nonsense", None)]
)
def test_a_containers_share_of_the_cores_counts(tmp_path: Path, limit: str, expected: int | None) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(limit)

    assert cores(file) == (expected or cores(tmp_path / "absent"))
    assert 1 <= cores() <= (os.cpu_count() or 1)
