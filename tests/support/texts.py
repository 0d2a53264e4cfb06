"""Texts for tests, seeded and all different, and how near vectors are to each other."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

WORDS = "the a river stone quickly embeds 東京 vector question 夕飯 corpus night answer é naïve 😀 queue of and".split()


def some_texts(count: int, seed: int, words: tuple[int, int] = (3, 40)) -> list[str]:
    """Different texts of mixed length."""
    chosen = random.Random(seed)
    return [f"{seed}-{n} " + " ".join(chosen.choices(WORDS, k=chosen.randint(*words))) for n in range(count)]


def cosines(one: Any, other: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Row by row."""
    a, b = np.asarray(one, dtype=np.float32), np.asarray(other, dtype=np.float32)
    found: np.ndarray[Any, Any] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found
