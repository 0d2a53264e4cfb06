"""The notebook runs from top to bottom, and finds what a reader would have found."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.notebook import QUICKSTART, code_cells, run

NOTEBOOK = json.loads(QUICKSTART.read_text())
CELLS = code_cells(NOTEBOOK)


def words(text: str) -> str:
    """Without figures and ids, which differ from run to run."""
    return re.sub(r"job_\w+|[\d.]+", "#", text)


def test_every_cell_runs_and_prints_what_is_shown(environment: dict[str, str], tmp_path: Path) -> None:
    try:
        printed = run(["".join(cell["source"]) for cell in CELLS], environment, tmp_path)
    except subprocess.CalledProcessError as failed:
        pytest.fail(f"{QUICKSTART.name}: {failed.stderr[-3000:]}")

    shown = ["".join(line for output in cell["outputs"] for line in output["text"]) for cell in CELLS]
    assert [words(text) for text in printed] == [words(text) for text in shown], (
        "start a server; python -m tests.docs.notebook URL"
    )


def test_the_notebook_is_small_and_of_the_format_that_viewers_know() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert {"id", "metadata", "source"} <= set.intersection(*(set(cell) for cell in NOTEBOOK["cells"]))
    assert QUICKSTART.stat().st_size < 20_000
