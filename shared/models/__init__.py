"""The served models: their entries (config), all of them (registry), how files are read (reading), where models lie (source)."""

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
from shared.models.registry import ModelRegistry, Problem
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
    "Parameters",
    "Problem",
    "find_source",
    "load_registry",
    "read_registry",
]
