"""Worker-wide settings, where an entry says nothing itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.models import ModelConfig, load_registry
from shared.settings import Settings


def served(tmp_path: Path, text: str, **settings: Any) -> dict[str, ModelConfig]:
    file = tmp_path / "models.yaml"
    file.write_text(text)
    registry = load_registry(Settings(config_file=file, **settings))
    return {model.name: model for model in registry}


TEXT = """\
- {name: a, parameters: {model: m}, alias: x}
- {name: b, parameters: {model: m}, f16: false, context_size: 128, preload: true}
- {name: c, parameters: {model: m}, dtype: half, preload: false}
"""


def test_f16_and_context_size_fill_up_what_no_entry_says(tmp_path: Path) -> None:
    models = served(tmp_path, TEXT, f16=True, context_size=256)

    assert {name: model.f16 for name, model in models.items()} == {"a": True, "b": False, "c": False}
    assert models["c"].dtype == "float16"
    assert {name: model.context_size for name, model in models.items()} == {"a": 256, "b": 128, "c": 256}


def test_with_preload_models_only_those_are_loaded_at_start_and_what_says_so_itself(tmp_path: Path) -> None:
    assert {name: model.preload for name, model in served(tmp_path, TEXT).items()} == {"a": True, "b": True, "c": False}

    models = served(tmp_path, TEXT, preload_models="c")

    assert {name: model.preload for name, model in models.items()} == {"a": False, "b": True, "c": True}
    assert served(tmp_path, TEXT, preload_models="x")["a"].preload, "an alias is a name too"


def test_a_preloaded_name_that_nothing_has_is_told(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(TEXT)

    (problem,) = load_registry(Settings(config_file=file, preload_models="a,gone")).problems  # type: ignore[arg-type]

    assert problem.served
    assert problem.message == "preload_models: there is no model 'gone'"


def test_an_alias_is_still_the_same_model(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(TEXT)
    registry = load_registry(Settings(config_file=file, f16=True))

    assert registry.get("x") is registry.get("a")
