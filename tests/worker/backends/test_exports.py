"""The folder of exports: whole or not at all, swept, and found by what they were made of."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from shared.models import ModelConfig, ModelSource, Parameters
from tests.support.waiting import wait_until
from worker.backends.exports import Description, Exports, fingerprint
from worker.backends.reference import agreement


@pytest.fixture
def exports(tmp_path: Path) -> Exports:
    return Exports(tmp_path / "engines")


def make(exports: Exports, key: str) -> None:
    with exports.making(key) as folder:
        assert folder is not None
        Description(dimensions=3).write(folder)


def test_an_export_is_there_once_its_making_ended_well(exports: Exports) -> None:
    assert exports.find("a") is None
    with exports.making("a") as folder:
        assert folder is not None
        Description(dimensions=3, prompts={"query": "q: "}).write(folder)
        assert exports.find("a") is None

    found = exports.find("a")
    assert found is not None
    assert Description.read(found) == Description(dimensions=3, prompts={"query": "q: "})
    with exports.making("a") as folder:
        assert folder is None


def test_a_making_that_fails_leaves_nothing(exports: Exports, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), exports.making("a"):
        raise OSError("full")

    assert exports.find("a") is None
    assert [path for path in (tmp_path / "engines").iterdir() if path.is_dir()] == []


def test_what_a_killed_process_left_and_what_is_long_unused_is_swept(exports: Exports, tmp_path: Path) -> None:
    for key in ("old", "used", "young"):
        make(exports, key)
    left = tmp_path / "engines" / ".half-left"
    left.mkdir()
    long_ago = time.time() - 40 * 86_400
    for key in ("old", "used"):
        os.utime(tmp_path / "engines" / key, (long_ago, long_ago))
    exports.find("used")

    make(exports, "new")

    assert sorted(path.name for path in (tmp_path / "engines").iterdir() if path.is_dir()) == ["new", "used", "young"]


def test_two_exports_are_made_side_by_side_and_neither_sweeps_the_other_away(exports: Exports) -> None:
    with exports.making("large") as large:
        assert large is not None
        (large / "begun").touch()
        small = threading.Thread(target=make, args=(exports, "small"), daemon=True)
        small.start()
        small.join(10)
        assert exports.find("small") is not None
        Description(dimensions=3).write(large)

    found = exports.find("large")
    assert found is not None
    assert (found / "begun").exists()


def test_who_wants_the_same_export_waits_for_it(exports: Exports, tmp_path: Path) -> None:
    """Several at once, as the workers of a machine do at their first start."""
    made: list[bool] = []

    def want() -> None:
        with exports.making("a") as folder:
            if folder is not None:
                Description(dimensions=3).write(folder)
            made.append(folder is not None)

    waiting = [threading.Thread(target=want) for _ in range(4)]
    with exports.making("a") as folder:
        assert folder is not None
        for thread in waiting:
            thread.start()
        wait_until(lambda: waiting_for_a_lock() >= len(waiting))
        assert made == []
        Description(dimensions=3).write(folder)
    for thread in waiting:
        thread.join(10)

    assert made == [False] * 4
    assert [path.name for path in (tmp_path / "engines").iterdir()] == ["a"]


def waiting_for_a_lock() -> int:
    """Of this process, by /proc."""
    return sum(f" {os.getpid()} " in line and "->" in line for line in Path("/proc/locks").read_text().splitlines())


def test_the_next_one_makes_what_failed(exports: Exports) -> None:
    with pytest.raises(OSError, match="full"), exports.making("a"):
        raise OSError("full")

    make(exports, "a")
    assert exports.find("a") is not None


def test_contents_make_an_export_and_names_and_times_do_not(tmp_path: Path) -> None:
    def found(folder: str, **entry: object) -> str | None:
        config = ModelConfig(name=folder, parameters=Parameters(model=folder), **entry)  # type: ignore[arg-type]
        return fingerprint(config, ModelSource(directory=tmp_path / folder))

    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").write_bytes(b"weights")
        (tmp_path / folder / ".hidden").write_text(folder)
    os.utime(tmp_path / "two" / "model.safetensors", (1, 1))
    assert found("one") == found("two") == found("two", preload=False, prompts={"q": "q: "})
    assert found("one") == found("one", dtype="float32") == found("one", dtype="float16")  # which a CPU does not compute in
    assert len({found("one"), found("one", dtype="int8"), found("one", normalize=True), found("one", context_size=9)}) == 4
    (tmp_path / "two" / "model.safetensors").write_bytes(b"WEIGHTS")
    assert found("one") != found("two")


def test_agreement_sees_direction_length_and_what_is_no_number() -> None:
    one = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)

    assert agreement(one, one) == pytest.approx(1.0)
    assert agreement(one * 2, one) == pytest.approx(0.8)
    assert agreement(one[:, ::-1], one) == pytest.approx(0.0)
    assert agreement(one * np.nan, one) == agreement(one[:1], one) == -1.0
