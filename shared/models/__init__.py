"""The served models: their entries (config), all of them (registry), how files are read (files, reading), what the settings
add (defaults), where models lie (source)."""

from shared.models.config import (
    BACKEND_NAMES,
    BUNDLED,
    LOCALAI_ONLY,
    LOCALAI_ONLY_PARAMETERS,
    WITHOUT_FILES,
    BatchLimits,
    ModelConfig,
    Parameters,
)
from shared.models.reading import load_registry, read_registry
from shared.models.registry import ModelRegistry, Models, Problem
from shared.models.rerankers import is_reranker
from shared.models.source import ModelSource, find_source

__all__ = [
    "BACKEND_NAMES",
    "BUNDLED",
    "LOCALAI_ONLY",
    "LOCALAI_ONLY_PARAMETERS",
    "WITHOUT_FILES",
    "BatchLimits",
    "ModelConfig",
    "ModelRegistry",
    "ModelSource",
    "Models",
    "Parameters",
    "Problem",
    "find_source",
    "is_reranker",
    "load_registry",
    "read_registry",
]
