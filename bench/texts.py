"""Texts for the benches: seeded, all different, of known length distributions in tokens of an English WordPiece vocabulary."""

from __future__ import annotations

import math
import random

from cli.bench.texts import WORDS

__all__ = ["WORDS", "make_texts", "tokens_of"]


def tokens_of(kind: str, rng: random.Random) -> int:
    """Tokens of one text: short 8-20, long about 400, mixed log-normal with median 60, up to 400."""
    if kind == "short":
        return rng.randint(8, 20)
    if kind == "long":
        return rng.randint(380, 420)
    return max(4, min(400, round(math.exp(rng.gauss(math.log(60), 0.8)))))


def make_texts(kind: str, count: int, seed: int = 0) -> list[str]:
    """`count` texts; the two special tokens of a BERT are counted as theirs."""
    rng = random.Random(f"{kind}/{seed}")
    return [" ".join(rng.choices(WORDS, k=max(1, tokens_of(kind, rng) - 2))) for _ in range(count)]
