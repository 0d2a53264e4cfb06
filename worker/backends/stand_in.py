"""StandIn: torch serves a model whose export is being made, and the export takes over between two calls, unseen.

To everybody else it is one loaded model that stays. Both are in memory for as long as the successor loads.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from shared.interactive import Tokens
from shared.presence import ModelKind
from worker.backends import Backend, TokenizedText


class StandIn:
    """A Backend that hands every call to another one. What either tokenized the other one can run: their ids are equal."""

    def __init__(self, backend: Backend) -> None:
        self._backend: Backend | None = backend
        self._calls: Counter[int] = Counter()  # under way, by who runs them
        self._changed = threading.Condition()
        self.kind: ModelKind = backend.kind
        self.dimensions, self.max_tokens, self.vocabulary = backend.dimensions, backend.max_tokens, backend.vocabulary
        self.device, self.dtype = backend.device, backend.dtype
        self.prompts: Mapping[str, str] = backend.prompts
        self.default_prompt_name = backend.default_prompt_name

    def relieve(self, successor: Backend) -> bool:
        """From the next call on `successor` runs everything; returns when the one before is closed.

        False, with nothing changed, if this was closed already, or if the successor is another model.
        """
        with self._changed:
            before = self._backend
            if before is None or _shape(before) != _shape(successor):
                return False
            self._backend = successor
            self._changed.wait_for(lambda: not self._calls[id(before)])
        before.close()
        return True

    # The contract

    @property
    def engine(self) -> str:
        """See Backend."""
        with self._changed:
            return self._backend.engine if self._backend is not None else "none"

    def tokenize(self, texts: Sequence[str], prompt: str = "") -> list[TokenizedText]:
        """See Backend."""
        with self._serving() as backend:
            return backend.tokenize(texts, prompt)

    def wrap(self, token_ids: Sequence[int]) -> TokenizedText:
        """See Backend."""
        with self._serving() as backend:
            return backend.wrap(token_ids)

    def split(self, text: str, *, special: bool) -> Tokens:
        """See Backend."""
        with self._serving() as backend:
            return backend.split(text, special=special)

    def join(self, token_ids: Sequence[int], *, special: bool) -> str:
        """See Backend."""
        with self._serving() as backend:
            return backend.join(token_ids, special=special)

    def embed(self, rows: Sequence[TokenizedText]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """See Backend."""
        with self._serving() as backend:
            return backend.embed(rows)

    def close(self) -> None:
        """See Backend."""
        with self._changed:
            backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    @contextmanager
    def _serving(self) -> Iterator[Backend]:
        """Who runs a call, to its end. A microsecond or two."""
        with self._changed:
            backend = self._backend
            assert backend is not None, "nobody uses a closed model"
            self._calls[id(backend)] += 1
        try:
            yield backend
        finally:
            with self._changed:
                self._calls[id(backend)] -= 1
                self._changed.notify_all()


def _shape(backend: Backend) -> tuple[object, ...]:
    return (
        *(backend.kind, backend.dimensions, backend.max_tokens, backend.vocabulary, backend.device, backend.dtype),
        *(dict(backend.prompts), backend.default_prompt_name),
    )
