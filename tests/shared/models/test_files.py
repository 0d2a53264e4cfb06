"""The models directory beside CONFIG_FILE: what is read, and whose entry counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.models import Problem, load_registry, read_registry
from shared.settings import Settings


def entry(name: str, model: str = "org/model", **keys: str) -> str:
    further = "".join(f", {key}: {value}" for key, value in keys.items())
    return f"{{name: {name}, parameters: {{model: {model}}}{further}}}\n"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    directory.mkdir()
    return directory


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models.yaml"


def told(problems: tuple[Problem, ...]) -> list[str]:
    return [f"{problem.file.name}:{problem.line}: {problem.message}" for problem in problems]


def test_every_yaml_file_of_the_models_directory_is_read_also_with_several_documents(models: Path) -> None:
    (models / "b.yaml").write_text(entry("b"))
    (models / "a.yml").write_text(f"---\n{entry('a1')}---\n- {entry('a2')}---\n---\n{entry('a3')}")
    (models / "org").mkdir()
    (models / "org" / "inside.yaml").write_text(entry("inside"))
    (models / "folder.yaml").mkdir()
    (models / ".hidden.yaml").write_text(entry("hidden"))
    (models / "notes.txt").write_text("no configuration")

    registry = load_registry(Settings(models_path=models))

    assert [model.name for model in registry] == ["a1", "a2", "a3", "b"]
    assert registry.problems == ()
    assert registry.directory == models
    assert registry.lines["a2"] == (models / "a.yml", 4)


def test_the_configuration_file_wins_by_name(models: Path, file: Path) -> None:
    file.write_text("- " + entry("a", "of/file") + "- " + entry("asleep", disabled="true") + "- {name: wrong}\n")
    (models / "dir.yaml").write_text("".join("- " + entry(name, "of/directory") for name in ("a", "asleep", "wrong", "b")))

    registry = load_registry(Settings(config_file=file, models_path=models))

    assert {model.name: model.parameters.model for model in registry} == {"a": "of/file", "b": "of/directory"}
    assert told(registry.problems) == [
        "models.yaml:3: wrong: parameters: Field required",
        "dir.yaml:1: a: the configuration file has a model of this name, which counts",
        "dir.yaml:2: asleep: the configuration file has a model of this name, which counts",
        "dir.yaml:3: wrong: the configuration file has a model of this name, which counts",
    ]
    assert [problem.served for problem in registry.problems] == [False, True, True, True]


def test_a_configuration_file_inside_the_models_directory_is_read_once(models: Path) -> None:
    (models / "models.yaml").write_text(entry("a"))
    (models / "link.yaml").symlink_to("models.yaml")

    registry = load_registry(Settings(config_file=models / "models.yaml", models_path=models))

    assert [model.name for model in registry] == ["a"]
    assert registry.problems == ()


def test_names_and_aliases_clash_across_files_too(models: Path) -> None:
    (models / "1.yaml").write_text(entry("a", alias="x"))
    (models / "2.yaml").write_text("- " + entry("x") + "- " + entry("b", alias="a") + "- " + entry("c"))

    registry = load_registry(Settings(models_path=models))

    assert [model.name for model in registry] == ["a", "c"]
    assert told(registry.problems) == [
        f"2.yaml:1: the name 'x' is taken by {models}/1.yaml:1",
        f"2.yaml:2: the name 'a' is taken by {models}/1.yaml:1",
    ]


def test_the_default_of_all_files_is_the_first_that_says_so_else_the_first_entry(models: Path, file: Path) -> None:
    file.write_text(entry("in-file"))
    (models / "1.yaml").write_text(entry("one"))
    settings = Settings(config_file=file, models_path=models)
    assert load_registry(settings).get(None).name == "in-file"

    (models / "2.yaml").write_text(entry("two", default="true"))
    assert load_registry(settings).get(None).name == "two"


def test_an_entry_that_is_only_a_name_for_another_leads_to_it(models: Path) -> None:
    (models / "gpt.yaml").write_text("name: text-embedding-3-small\nalias: luke\n")
    (models / "luke.yaml").write_text(entry("luke", alias="sentence-luke"))
    (models / "wrong.yaml").write_text(
        "- {name: chain, alias: text-embedding-3-small}\n- {name: nowhere, alias: gone}\n- {name: luke, alias: luke}\n"
    )

    registry = load_registry(Settings(models_path=models))

    assert registry.get("text-embedding-3-small").name == registry.get("sentence-luke").name == "luke"
    assert [model.name for model in registry] == ["luke"]
    assert [line.partition(" ")[2] for line in told(registry.problems)] == [
        "chain: alias: there is no model 'text-embedding-3-small' that it could lead to",
        "nowhere: alias: there is no model 'gone' that it could lead to",
        f"the name 'luke' is taken by {models}/luke.yaml:1",
    ]


def test_a_file_that_cannot_be_read_is_a_problem_beside_those_that_can(models: Path) -> None:
    (models / "a.yaml").write_text(entry("a"))
    (models / "broken.yaml").write_text("- {name: [")
    (models / "gone.yaml").symlink_to("nowhere.yaml")

    registry = load_registry(Settings(models_path=models))

    assert [model.name for model in registry] == ["a"]
    assert [line.split(": ")[:2] for line in told(registry.problems)] == [
        ["broken.yaml:1", "not YAML"],
        ["gone.yaml:1", "cannot be read"],
    ]


def test_without_any_file_the_bundled_model_is_served(models: Path) -> None:
    for directory in (models, models / "not-there"):
        assert load_registry(Settings(models_path=directory)).get(None).name == "all-MiniLM-L6-v2"


def test_a_revision_in_a_link_is_the_entrys_revision(file: Path) -> None:
    file.write_text(
        "- "
        + entry("link", "https://huggingface.co/intfloat/e5/tree/refs/pr/1")
        + "- "
        + entry("at", "hf://intfloat/e5@v2")
        + "- "
        + entry("both", "https://huggingface.co/intfloat/e5/tree/main/", revision="main")
        + "- "
        + entry("twice", "https://huggingface.co/intfloat/e5/tree/main", revision="other")
    )

    registry = read_registry(file)

    assert {model.name: model.revision for model in registry} == {"link": "refs/pr/1", "at": "v2", "both": "main"}
    assert told(registry.problems) == ["models.yaml:4: twice: revision is 'other', but parameters.model says 'main'"]
