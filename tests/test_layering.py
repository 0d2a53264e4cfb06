"""Who may import whom, as CONTRIBUTING.md's table says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("shared", "web", "worker", "cli")
SERVERS = {"flask", "gunicorn", "werkzeug"}
MODEL_LIBRARIES = {"torch", "sentence_transformers", "transformers", "tokenizers", "sentencepiece"}

FORBIDDEN: dict[str, set[str]] = {
    "shared": {"web", "worker", "cli"} | SERVERS | MODEL_LIBRARIES,
    "web": {"worker", "cli"} | MODEL_LIBRARIES,
    "worker": {"web", "cli"} | SERVERS | MODEL_LIBRARIES,
    "worker/backends": {"web", "cli"} | SERVERS,
    # cli starts web and worker as processes.
    "cli": {"web", "worker"} | SERVERS | MODEL_LIBRARIES,
}


def modules() -> list[Path]:
    return sorted(path.relative_to(ROOT) for folder in OURS for path in (ROOT / folder).rglob("*.py"))


def imports(source: str) -> set[str]:
    """The top-level names of every import statement, those inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add((node.module or "").partition(".")[0])
    return found


def rule_for(module: Path) -> set[str]:
    return FORBIDDEN["worker/backends" if module.parts[:2] == ("worker", "backends") else module.parts[0]]


@pytest.mark.parametrize("module", modules(), ids=str)
def test_a_module_imports_only_what_its_folder_may(module: Path) -> None:
    assert imports((ROOT / module).read_text()) & rule_for(module) == set()


def test_the_check_sees_imports_wherever_they_are() -> None:
    source = "import torch.nn as nn\ndef f():\n    from flask.views import View\nif True:\n    import os, web.app\n"

    assert imports(source) == {"torch", "flask", "os", "web"}


@pytest.mark.parametrize("module", modules(), ids=str)
def test_no_module_borrows_a_name_of_the_standard_library(module: Path) -> None:
    assert module.stem == "__init__" or module.stem not in sys.stdlib_module_names


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("web.wsgi", {"worker", "torch", "sentence_transformers", "transformers", "opentelemetry.sdk.trace.export"}),
        ("worker.app", {"web", "flask", "gunicorn", "opentelemetry.sdk.trace.export"}),
        ("cli.main", {"web", "worker", "torch", "flask", "celery"}),
    ],
)
def test_a_fresh_interpreter_loads_nothing_it_should_not(module: str, forbidden: set[str], tmp_path: Path) -> None:
    script = f"import sys, {module}; print(*sorted(set(sys.modules) & {forbidden!r})); sys.stdout.flush(); import os; os._exit(0)"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "UMEKOMI_DATA_DIR": str(tmp_path)}

    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr
