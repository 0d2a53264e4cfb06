"""Reference: what plain torch makes of a few fixed texts, kept beside an engine, so that it is checked wherever it is loaded.

The texts are chosen to tell: one word, a short one, Japanese, as long as the model reads, with each prompt; each alone and
all of them padded in one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from worker.backends import Backend, TokenizedText

# The least agreement with torch in float32 that an engine may have, by the type that it computes in.
LEAST_AGREEMENT = {"float32": 0.9999, "float16": 0.999, "bfloat16": 0.999, "int8": 0.98}
# Longer texts are checked once, when the engine is made: a load would take seconds for them.
LONG_TOKENS = 256
LONGEST_TOKENS = 2048
_TEXTS = (
    "protein",
    "How much protein should a female eat?",
    "夕飯はお肉です。今日は、いい天気ですね。",
    "A question is answered while a corpus runs at night, e.g. in 2024; Ünïcödé wörds äre hère too.",
)
_LONG = "the quick brown fox jumps over the lazy dog and 猫はこたつで丸くなる "
# Prompts of the model that are looked at; models with dozens use one mechanism for all.
_MAX_PROMPTS = 4

Vectors = np.ndarray[Any, np.dtype[np.float32]]


class Disagreement(Exception):
    """An engine does not give the vectors of plain torch."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The texts' ids in their batches, and torch's vectors."""

    prompts: Sequence[str]  # that some of the texts have
    batches: Sequence[Sequence[TokenizedText]]
    vectors: Vectors  # float32 [rows of all batches, dimensions]

    @classmethod
    def of(cls, backend: Backend, tokens: int = LONG_TOKENS) -> Reference:
        """Run the texts through a backend that is right. The long one is as long as the model reads, up to `tokens`."""
        prompts = [prompt for prompt in dict.fromkeys(backend.prompts.values()) if prompt][:_MAX_PROMPTS] or ["query: "]
        batches = _batches(backend, prompts, tokens)
        return cls(prompts, batches, _embed(backend, batches))

    @classmethod
    def read(cls, file: Path) -> Reference:
        """What `write` wrote. Raises OSError, ValueError and KeyError for a damaged file."""
        with file.open("rb") as opened, np.load(opened) as arrays:
            ids, ends, batch_of = arrays["ids"], np.cumsum(arrays["lengths"]), arrays["batch_of"]
            prompt_tokens, vectors = arrays["prompt_tokens"], arrays["vectors"]
            prompts = orjson.loads(arrays["prompts"].tobytes())
        batches: list[list[TokenizedText]] = [[] for _ in range(int(batch_of.max()) + 1)]
        for part, batch, tokens in zip(np.split(ids, ends[:-1]), batch_of, prompt_tokens, strict=True):
            batches[batch].append(TokenizedText(part, truncated=False, prompt_tokens=int(tokens)))
        return cls(prompts, batches, vectors)

    def write(self, file: Path) -> None:
        """Into one small file."""
        rows = [row for batch in self.batches for row in batch]
        np.savez(
            file,
            prompts=np.frombuffer(orjson.dumps(self.prompts), np.uint8),
            ids=np.concatenate([row.ids for row in rows]),
            lengths=np.array([len(row) for row in rows]),
            prompt_tokens=np.array([row.prompt_tokens for row in rows]),
            batch_of=np.repeat(np.arange(len(self.batches)), [len(batch) for batch in self.batches]),
            vectors=self.vectors,
        )

    def check(self, backend: Backend) -> float:
        """How well a backend agrees, from the row that agrees least; 1 is perfect. Raises Disagreement, by its own type."""
        batches = _batches(backend, self.prompts, max(len(row) for batch in self.batches for row in batch))
        same = [_same_ids(ours, theirs) for ours, theirs in zip(batches, self.batches, strict=False)]
        if len(batches) != len(self.batches) or not all(same):
            raise Disagreement("it does not read the texts as torch does: other token ids")
        found = agreement(_embed(backend, self.batches), self.vectors)
        least = LEAST_AGREEMENT[backend.dtype]
        if not found >= least:
            raise Disagreement(f"its vectors are not torch's: agreement {found:.5f}, {least} is asked of {backend.dtype}")
        return found


def agreement(found: Vectors, expected: Vectors) -> float:
    """2ab / (aa + bb) of the row where it is least: the cosine, and less if the lengths differ; -1 for what is not finite."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return -1.0
    a, b = found.astype(np.float64), expected.astype(np.float64)
    squares = (a * a).sum(axis=1) + (b * b).sum(axis=1)
    return float((2 * (a * b).sum(axis=1) / np.maximum(squares, 1e-30)).min())


def _batches(backend: Backend, prompts: Sequence[str], tokens: int) -> list[list[TokenizedText]]:
    # Every repetition is more than ten tokens, so this is longer than the model reads, or than is asked for.
    long = _cut(backend.tokenize([_LONG * (min(tokens, backend.max_tokens) // 10 + 1)])[0], tokens)
    texts = [*backend.tokenize(_TEXTS), long]
    prompted = [row for prompt in prompts for row in backend.tokenize(_TEXTS[1:2], prompt)]
    return [*([row] for row in (*texts, *prompted)), [*texts, *prompted]]


def _cut(row: TokenizedText, tokens: int) -> TokenizedText:
    return row if len(row) <= tokens else TokenizedText(row.ids[:tokens], row.truncated, row.prompt_tokens)


def _same_ids(ours: Sequence[TokenizedText], theirs: Sequence[TokenizedText]) -> bool:
    return len(ours) == len(theirs) and all(
        np.array_equal(mine.ids, other.ids) and mine.prompt_tokens == other.prompt_tokens
        for mine, other in zip(ours, theirs, strict=True)
    )


def _embed(backend: Backend, batches: Sequence[Sequence[TokenizedText]]) -> Vectors:
    return np.concatenate([backend.embed(batch) for batch in batches])
