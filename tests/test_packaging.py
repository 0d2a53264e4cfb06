"""What is installed, and whether the documents say what the code says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from shared.settings import Settings
from tests.support.readme import SETTINGS, groups, settings_page

ROOT = Path(__file__).parents[1]
OURS = ("shared", "web", "worker", "cli")


def test_nobody_else_owns_our_generic_package_names() -> None:
    owners = packages_distributions()

    for name in OURS:
        assert set(owners.get(name, [])) <= {"umekomi"}, f"another distribution brings a package {name!r}"


def test_the_command_runs_from_a_foreign_directory(tmp_path: Path) -> None:
    for name in OURS:  # whose folders have our names
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    command = Path(sys.executable).with_name("umekomi")
    assert command.exists(), "install it first: pip install -e ."

    ran = subprocess.run([command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stdout.startswith("umekomi ")) == (0, True), ran.stderr


def test_the_page_of_the_settings_has_them_as_they_are() -> None:
    assert sorted(name for names in groups().values() for name in names) == sorted(Settings.model_fields)
    assert "| `UMEKOMI_MAX_REQUEST_BYTES` | 15728640 (15 MiB) |" in settings_page()
    assert SETTINGS.read_text() == settings_page(), "run `make readme`"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def test_every_make_target_that_a_document_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    for document in ("README.md", "CONTRIBUTING.md"):
        assert set(re.findall(r"\bmake ([a-z]+)\b", (ROOT / document).read_text())) <= targets


def test_constraints_pin_torch_exactly_and_every_dependency_somehow() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]

    assert pins["torch"] == "2.13.0"
    assert not [line for line in pins.values() if "/" in line or "@" in line or "+" in line]
    pinned = {name.lower().replace("_", "-") for name in pins}
    for requirement in wanted:
        name = re.split(r"[\[<>=;! ]", requirement)[0].lower().replace("_", "-")
        assert name in pinned, f"{name} is not pinned: run `make constraints`"


def test_ci_runs_what_make_test_runs() -> None:
    script = ROOT / ".ci" / "run"

    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()
