"""A module of a model's own, which is in no list."""

from __future__ import annotations

from sentence_transformers.sentence_transformer.modules import Normalize


class Strange(Normalize):
    """Unit length, under another name."""
