"""is_reranker: whether a model scores pairs of a query and a document, as its entry or its files say."""

from __future__ import annotations

import json
from pathlib import Path

from shared.models.config import ModelConfig

_ARCHITECTURE = "ForSequenceClassification"


def is_reranker(config: ModelConfig, directory: Path | None) -> bool:
    """Says the entry so, or is the directory one of a classifier that no modules.json makes a SentenceTransformer of?"""
    if config.reranking or directory is None or config.backend != "sentence-transformers":
        return config.reranking
    if (directory / "modules.json").is_file():
        return False
    try:
        says = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        architectures = says.get("architectures") or ()
        return any(str(name).endswith(_ARCHITECTURE) for name in architectures)
    except (OSError, ValueError, AttributeError, TypeError):
        return False  # whatever is wrong with the directory, loading it tells
