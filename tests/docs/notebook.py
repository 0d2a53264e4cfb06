"""A notebook's code, run from top to bottom in a process of its own; python -m tests.docs.notebook URL writes its outputs."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

QUICKSTART = Path(__file__).parents[2] / "docs" / "quickstart.ipynb"


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells of code in their order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(sources: list[str], environment: dict[str, str], directory: Path) -> list[str]:
    """What each cell prints, its last expression included, in one namespace. Raises CalledProcessError."""
    done = subprocess.run(
        [sys.executable, __file__, "--cells"],
        input=json.dumps(sources),
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    printed: list[str] = json.loads(done.stdout)
    return printed


def _cells() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = []
    for number, source in enumerate(json.load(sys.stdin), 1):
        tree = ast.parse(source)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(tree, f"cell {number}", "exec"), names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
                if value is not None:
                    print(repr(value))
        printed.append(out.getvalue())
    print(json.dumps(printed))


def _write_outputs(url: str) -> None:
    notebook = json.loads(QUICKSTART.read_text())
    cells = code_cells(notebook)
    with tempfile.TemporaryDirectory() as directory:
        printed = run(["".join(cell["source"]) for cell in cells], {**os.environ, "UMEKOMI_URL": url}, Path(directory))
    for number, (cell, text) in enumerate(zip(cells, printed, strict=True), 1):
        cell["execution_count"] = number
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}] if text else []
    QUICKSTART.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--cells":
        _cells()
    else:
        _write_outputs(sys.argv[1])
