"""FakeBackend: vectors from a hash of the tokens, at a speed and with faults of one's choice; for tests and benches.

`parameters.model` is `fake`, or `fake?` and options: dimensions=32, max_tokens=512, seconds_per_token=0.0001 (of padded
tokens), seconds_to_load=1, out_of_memory_above=4 (rows of a batch), and any number of poison=raise:WORD, poison=nan:WORD,
poison=crash:WORD (SIGKILL for the whole process) that take effect when a text holds the word. With `reranking: true` it
scores how many words of a document are the query's.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import numpy as np

from shared.interactive import Tokens
from shared.models import ModelConfig, ModelSource
from shared.presence import ModelKind
from worker.backends import LoadOptions, OutOfMemory, TokenizedText

_WORD = re.compile(r"\w+|[^\w\s]")
_BEGIN, _END = 0, 1
_FIRST_WORD = 2


class FakeBackend:
    """Equal tokens give equal vectors of unit length; a token is a word or a sign, with one more at either end."""

    vocabulary = 2**20
    dtype = "float32"
    engine = "fake"

    def __init__(self, config: ModelConfig, source: ModelSource, options: LoadOptions) -> None:
        del source
        spelled = parse_qs(config.parameters.model.partition("?")[2])
        chosen = {name: values[-1] for name, values in spelled.items()}
        time.sleep(float(chosen.get("seconds_to_load", 0)))
        if "fails_to_load" in chosen:
            raise OSError(chosen["fails_to_load"])
        self.device = options.device
        self.dimensions = int(chosen.get("dimensions", config.dimensions or 8))
        self.max_tokens = min(int(chosen.get("max_tokens", 512)), config.context_size or 2**31)
        self.prompts: Mapping[str, str] = dict(config.prompts)
        self.default_prompt_name = config.default_prompt_name
        self.is_closed = False
        self.kind: ModelKind = "rerank" if config.reranking else "embed"
        if config.reranking:
            self.dimensions = 2
        self._seconds_per_token = float(chosen.get("seconds_per_token", 0))
        self._most_rows = int(chosen.get("out_of_memory_above", 2**31))
        poisons = [poison.partition(":") for poison in spelled.get("poison", [])]
        self._poisons = [(kind, _word_id(word)) for kind, _, word in poisons]

    def tokenize(self, texts: Sequence[str], prompt: str = "") -> list[TokenizedText]:
        """See Backend."""
        if self.kind == "rerank":
            query = [_word_id(word) for word in _WORD.findall(prompt)]
            return [self.wrap([*query, _END, *(_word_id(word) for word in _WORD.findall(text))]) for text in texts]
        return [self.wrap([_word_id(word) for word in _WORD.findall(prompt + text)]) for text in texts]

    def wrap(self, token_ids: Sequence[int]) -> TokenizedText:
        """See Backend."""
        kept = token_ids[: self.max_tokens - 2]
        return TokenizedText(np.array([_BEGIN, *kept, _END], np.int32), len(kept) < len(token_ids))

    def split(self, text: str, *, special: bool) -> Tokens:
        """See Backend. It keeps no vocabulary, so a piece is the word itself."""
        found = list(_WORD.finditer(text))
        ids, pieces = [_word_id(word[0]) for word in found], [word[0] for word in found]
        spans: list[tuple[int, int] | None] = [word.span() for word in found]
        if not special:
            return Tokens(ids, pieces, spans)
        return Tokens([_BEGIN, *ids, _END], ["<begin>", *pieces, "<end>"], [None, *spans, None])

    def join(self, token_ids: Sequence[int], *, special: bool) -> str:
        """See Backend: the ids themselves."""
        return " ".join(str(each) for each in token_ids if special or each >= _FIRST_WORD)

    def embed(self, rows: Sequence[TokenizedText]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """See Backend."""
        if len(rows) > self._most_rows:
            raise OutOfMemory
        if self._seconds_per_token:
            time.sleep(self._seconds_per_token * len(rows) * max(map(len, rows), default=0))
        if self.kind == "rerank":
            raw = np.array([_overlap(row.ids.tolist()) for row in rows], np.float32)
            return np.stack([1 / (1 + np.exp(-raw)), raw], axis=1).reshape(len(rows), 2)
        digests = b"".join(hashlib.shake_256(row.ids.tobytes()).digest(2 * self.dimensions) for row in rows)
        vectors = np.frombuffer(digests, "<i2").reshape(len(rows), self.dimensions).astype(np.float32) + np.float32(0.5)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        for kind, word in self._poisons:
            struck = [word in row.ids for row in rows]
            if any(struck) and kind == "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            if any(struck) and kind == "raise":
                raise RuntimeError("the fake model was poisoned")
            vectors[struck] = np.nan
        return vectors

    def close(self) -> None:
        """See Backend."""
        self.is_closed = True


def _overlap(pair: list[int]) -> float:
    """Of `_BEGIN, query, _END, document, _END`."""
    middle = pair.index(_END)
    query, document = pair[1:middle], pair[middle + 1 : -1]
    return sum(word in query for word in document) - 0.01 * len(document)


def _word_id(word: str) -> int:
    # surrogatepass is left out on purpose: like a real tokenizer, it cannot read half a character.
    return _FIRST_WORD + zlib.crc32(word.encode()) % (FakeBackend.vocabulary - _FIRST_WORD)
