"""The worker-wide settings (f16, context_size, preload_models) where an entry says nothing itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.models.config import ModelConfig
from shared.models.registry import ModelRegistry, Problem
from shared.settings import Settings


def with_defaults(registry: ModelRegistry, settings: Settings) -> ModelRegistry:
    """Entries filled up; a name in `preload_models` that nothing has is a problem."""
    changed = {config.name: _filled(config, settings) for config in registry}
    models = {name: changed[config.name] for name, config in registry.models.items()}
    unknown = [name for name in settings.preload_models if name not in models]
    where = settings.config_file or settings.models_path or Path("bundled")
    problems = tuple(Problem(where, 1, f"preload_models: there is no model {name!r}", served=True) for name in unknown)
    return replace(registry, models=models, problems=registry.problems + problems)


def _filled(config: ModelConfig, settings: Settings) -> ModelConfig:
    said = config.model_fields_set
    update: dict[str, Any] = {}
    if settings.f16 and not said & {"f16", "dtype"}:
        update["f16"] = True
    if settings.context_size and config.context_size is None:
        update["context_size"] = max(2, settings.context_size)
    if settings.preload_models:
        is_named = not {config.name, config.alias}.isdisjoint(settings.preload_models)
        update["preload"] = is_named or ("preload" in said and config.preload)
    return config.model_copy(update=update) if update else config
