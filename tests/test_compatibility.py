"""docs/compatibility.md names a test beside each row, and every one of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = [line for line in (ROOT / "docs" / "compatibility.md").read_text().splitlines() if re.match(r"\| (?!---)", line)]
_TEST = re.compile(r"`(tests/[\w./]+)(?:::(\w+))?`")


def test_every_test_that_is_named_exists() -> None:
    named = {found for row in ROWS for found in _TEST.findall(row)}

    assert named
    missing = []
    for file, function in sorted(named):
        path = ROOT / file
        if not path.is_file():
            missing.append(file)
        elif function:
            defined = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
            if function not in defined:
                missing.append(f"{file}::{function}")
    assert missing == []


def test_every_row_names_one() -> None:
    headings = {"LocalAI", "OpenAI"}
    without = [row for row in ROWS if not _TEST.search(row) and row.split("|")[1].strip() not in headings]

    assert without == []
