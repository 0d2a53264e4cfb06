"""How fast a model runs here, and which batch size gives the most: learnt from the batches themselves. No clock, no thread."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

# A rate forgets: a batch counts 1/e after so many seconds of computing.
RATE_MEMORY_S = 3.0
# The same for one size of batch, which has its turn less often: noise of a busy machine shall not look like a better size.
SIZE_MEMORY_S = 10.0
# The sizes that are tried: the most, a half, a quarter, an eighth. On two AVX2 cores all-MiniLM-L6-v2 gave 2,665, 2,729 and
# 2,439 tokens/s a core with 1,024, 2,048 and 8,192 tokens in torch; ONNX Runtime 3,233 with about 500, and 2,896 with 2,000.
SIZES = 4
# One batch in so many tries a size beside the best; it costs what that size is worse, so next to nothing.
TRY_EVERY = 16
# Another size must be better by so much.
BETTER_BY = 1.03


@dataclass(slots=True)
class Rate:
    """Tokens and the seconds they took; what is long ago counts less."""

    memory_s: float = RATE_MEMORY_S
    tokens: float = 0.0
    seconds: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Lately."""
        return self.tokens / self.seconds

    def add(self, tokens: int, seconds: float) -> None:
        """A batch of so many padded tokens took so long."""
        seconds = max(seconds, 1e-6)
        keep = exp(-seconds / self.memory_s)
        self.tokens = self.tokens * keep + tokens
        self.seconds = self.seconds * keep + seconds


class Pace:
    """One model's. Sizes are of a batch in padded tokens, up to `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rate: Rate | None = None
        self._by_size: dict[int, Rate] = {}  # by how often the most is halved
        self._best = 0
        self._turn = 0

    @property
    def tokens_per_s(self) -> float | None:
        """In one batch, lately; None before the first."""
        return None if self._rate is None else self._rate.tokens_per_s

    @property
    def best_size(self) -> int:
        """The size that gave the most tokens a second, as far as sizes were tried."""
        return self._size(self._best)

    def next_size(self) -> int:
        """The best size, and now and then one beside it."""
        self._turn += 1
        halvings = self._best
        if self._turn % TRY_EVERY == 0:
            halvings += 1 if self._turn % (2 * TRY_EVERY) else -1
        return self._size(min(max(halvings, 0), SIZES - 1))

    def add(self, tokens: int, seconds: float) -> None:
        """A batch of so many padded tokens took so long."""
        if self._rate is None:
            self._rate = Rate()
        self._rate.add(tokens, seconds)
        halvings = next((halvings for halvings in range(SIZES - 1, -1, -1) if tokens <= self._size(halvings)), 0)
        if 4 * tokens < 3 * self._size(halvings):
            return  # it was not filled: that says nothing of the size
        self._by_size.setdefault(halvings, Rate(SIZE_MEMORY_S)).add(tokens, seconds)
        if (ours := self._by_size.get(self._best)) is None:
            return
        other = max(self._by_size, key=lambda size: self._by_size[size].tokens_per_s)
        if self._by_size[other].tokens_per_s > BETTER_BY * ours.tokens_per_s:
            self._best = other

    def _size(self, halvings: int) -> int:
        return max(1, self._most >> halvings)
