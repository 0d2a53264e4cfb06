"""Which rows go through the model next: the waiting rows of both lanes, by length, and the decision. No clock, no thread.

A batch holds rows of one lane and one model. Interactive goes first; bulk keeps a floor share. The request that is due
first gives the first row, its longest; the batch is filled with the rows nearest in length, whoever they belong to, as
long as its padded tokens stay within the budget.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from math import exp
from typing import Generic, Literal, Protocol, TypeVar

from worker.backends import TokenizedText

Lane = Literal["interactive", "bulk"]

# One batch in ten is bulk while questions never cease.
INTERACTIVE_BATCHES_PER_BULK = 9
# Somebody interactive counts as present for so long after the last row.
PRESENT_S = 5.0
# Bulk batches of a model that was never measured, while somebody interactive is present.
UNMEASURED_TOKENS = 512
# A rate forgets: a batch counts 1/e after so many seconds of computing.
RATE_MEMORY_S = 3.0
# A row is padded by at most a quarter of the longest, or by what a batch costs of its own (launching, Python): about
# so many padded tokens of a small model on a CPU core.
PADDING_TOKENS = 16


class Request(Hashable, Protocol):
    """What the batcher must know of the owner of a row."""

    @property
    def model(self) -> str:
        """Its name."""

    @property
    def lane(self) -> Lane:
        """Which of the two."""

    @property
    def due(self) -> float:
        """The smallest goes first within its lane."""

    @property
    def deadline(self) -> float | None:
        """Unix seconds."""


R = TypeVar("R", bound=Request)


@dataclass(slots=True, eq=False)
class Row(Generic[R]):
    """One text of a request, waiting."""

    request: R
    position: int  # in its request
    text: TokenizedText
    tokens: int = field(init=False)  # at least 1
    is_waiting: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.tokens = max(1, len(self.text))


@dataclass(slots=True, frozen=True)
class Batch(Generic[R]):
    """Rows that go through the model together."""

    model: str
    lane: Lane
    rows: list[Row[R]]

    @property
    def padded_tokens(self) -> int:
        """What it costs: rows x longest row."""
        return len(self.rows) * max(row.tokens for row in self.rows)


class Batcher(Generic[R]):
    """The waiting rows, and what was learnt about the models' speed and limits. `now` is in unix seconds."""

    def __init__(self, *, max_batch_tokens: int, batch_target_s: float, max_tokens_of: Mapping[str, int] | None = None) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._max_tokens_of = max_tokens_of or {}  # by model, where it is not the same for all
        self._batch_target_s = batch_target_s
        self._lines: dict[Lane, _Line[R]] = {"interactive": _Line(), "bulk": _Line()}
        self._limits: dict[str, int] = {}
        self._rates: dict[str, _Rate] = {}
        self._present_until = float("-inf")
        self._interactive_in_a_row = 0

    def __len__(self) -> int:
        return sum(line.rows for line in self._lines.values())

    def add(self, rows: Iterable[Row[R]], now: float) -> None:
        """Rows that wait from now on."""
        for row in rows:
            self._lines[row.request.lane].add(row)
            if row.request.lane == "interactive":
                self._present_until = now + PRESENT_S

    def remove(self, request: R) -> list[Row[R]]:
        """Take the rows of a request that are in no batch yet out, and return them."""
        return self._lines[request.lane].remove(request)

    def overdue(self, now: float) -> list[R]:
        """Requests whose deadline passed while rows of theirs waited; those rows are out."""
        return [request for line in self._lines.values() for request in line.overdue(now)]

    def next_batch(self, now: float) -> Batch[R] | None:
        """The rows that go next; they are no longer waiting. None if nothing waits."""
        interactive, bulk = self._lines["interactive"].seed(), self._lines["bulk"].seed()
        bulk_has_its_turn = bulk is not None and self._interactive_in_a_row >= INTERACTIVE_BATCHES_PER_BULK
        seed = bulk if interactive is None or bulk_has_its_turn else interactive
        if seed is None:
            return None
        lane, model = seed.request.lane, seed.request.model
        self._interactive_in_a_row = self._interactive_in_a_row + 1 if lane == "interactive" else 0
        return Batch(model, lane, self._lines[lane].take(seed, self.budget(model, lane, now)))

    def budget(self, model: str, lane: Lane, now: float) -> int:
        """Padded tokens that the next batch may have; a single longer row goes alone."""
        most = self._max_tokens_of.get(model, self._max_batch_tokens)
        most = min(most, self._limits.get(model, most))
        if lane == "interactive" or now >= self._present_until:
            return most
        rate = self.tokens_per_s(model)
        return max(1, min(most, UNMEASURED_TOKENS if rate is None else int(rate * self._batch_target_s)))

    def waiting_tokens(self, lane: Lane) -> int:
        """Tokens of the lane's waiting rows, without padding."""
        return self._lines[lane].tokens

    def limit(self, model: str, max_tokens: int) -> None:
        """Keep the batches of a model below so many padded tokens from now on; a higher limit than before changes nothing."""
        self._limits[model] = max(1, min(max_tokens, self._limits.get(model, max_tokens)))

    def measured(self, model: str, tokens: int, seconds: float) -> None:
        """A batch of so many padded tokens took so long."""
        self._rates.setdefault(model, _Rate()).add(tokens, seconds)

    def tokens_per_s(self, model: str) -> float | None:
        """Padded tokens a second in one batch of this model, lately; None before the first."""
        rate = self._rates.get(model)
        return None if rate is None else rate.tokens / rate.seconds


@dataclass(slots=True)
class _Rate:
    """Tokens and the seconds they took; what is long ago counts less."""

    tokens: float = 0.0
    seconds: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        seconds = max(seconds, 1e-6)
        keep = exp(-seconds / RATE_MEMORY_S)
        self.tokens = self.tokens * keep + tokens
        self.seconds = self.seconds * keep + seconds


class _Shelf(Generic[R]):
    """The rows of one model in one lane, by length. Rows that no longer wait lie there until they are met or swept."""

    def __init__(self) -> None:
        self._lengths: list[int] = []  # ascending
        self._rows: dict[int, deque[Row[R]]] = {}

    def put(self, row: Row[R]) -> None:
        if row.tokens not in self._rows:
            insort(self._lengths, row.tokens)
            self._rows[row.tokens] = deque()
        self._rows[row.tokens].append(row)

    def at_or_below(self, length: int) -> Row[R] | None:
        """The longest waiting row of at most so many tokens."""
        while (index := bisect_right(self._lengths, length) - 1) >= 0:
            if (row := self._first(index)) is not None:
                return row
        return None

    def at_or_above(self, length: int) -> Row[R] | None:
        """The shortest waiting row of at least so many tokens."""
        while (index := bisect_left(self._lengths, length)) < len(self._lengths):
            if (row := self._first(index)) is not None:
                return row
        return None

    def _first(self, index: int) -> Row[R] | None:
        """The first waiting row of a length; if there is none, the length is gone afterwards."""
        rows = self._rows[self._lengths[index]]
        while rows and not rows[0].is_waiting:
            rows.popleft()
        if rows:
            return rows[0]
        del self._rows[self._lengths.pop(index)]
        return None

    def sweep(self, lengths: Iterable[int]) -> None:
        """Let go of the rows of these lengths that no longer wait."""
        for length in set(lengths) & self._rows.keys():
            self._rows[length] = deque(row for row in self._rows[length] if row.is_waiting)


@dataclass(slots=True)
class _Entry(Generic[R]):
    """A request with rows that wait."""

    request: R
    ticket: int
    rows: list[tuple[int, int, Row[R]]] = field(default_factory=list)  # a heap of (-tokens, position, row), some taken
    waiting: int = 0


class _Line(Generic[R]):
    """One lane: its requests in the order they are due, its rows on shelves."""

    def __init__(self) -> None:
        self.rows = 0
        self.tokens = 0
        self._entries: dict[R, _Entry[R]] = {}
        self._tickets: dict[int, _Entry[R]] = {}
        self._last_ticket = 0
        # Heaps of (when, ticket): a ticket that is no longer known is passed over, so they keep no request alive.
        self._order: list[tuple[float, int]] = []
        self._deadlines: list[tuple[float, int]] = []
        self._shelves: dict[str, _Shelf[R]] = {}

    def add(self, row: Row[R]) -> None:
        entry = self._entries.get(row.request) or self._enter(row.request)
        heapq.heappush(entry.rows, (-row.tokens, row.position, row))
        entry.waiting += 1
        row.is_waiting = True
        self.rows += 1
        self.tokens += row.tokens
        self._shelves.setdefault(row.request.model, _Shelf()).put(row)

    def seed(self) -> Row[R] | None:
        """The longest waiting row of the request that is due first."""
        while self._order and self._order[0][1] not in self._tickets:
            heapq.heappop(self._order)
        if not self._order:
            return None
        rows = self._tickets[self._order[0][1]].rows
        while not rows[0][2].is_waiting:
            heapq.heappop(rows)
        return rows[0][2]

    def take(self, seed: Row[R], budget: int) -> list[Row[R]]:
        """The seed and its nearest neighbours in length, within the budget in padded tokens."""
        shelf = self._shelves[seed.request.model]
        taken = [seed]
        self._leave(seed)
        longest = shortest = seed.tokens
        while True:
            nearest: Row[R] | None = None
            for row in (shelf.at_or_below(shortest), shelf.at_or_above(max(longest, seed.tokens + 1))):
                if row is None:
                    continue
                top, bottom = max(longest, row.tokens), min(shortest, row.tokens)
                if (len(taken) + 1) * top > budget or top - bottom > max(top // 4, PADDING_TOKENS):
                    continue
                if nearest is None or abs(row.tokens - seed.tokens) < abs(nearest.tokens - seed.tokens):
                    nearest = row
            if nearest is None:
                return taken
            taken.append(nearest)
            self._leave(nearest)
            longest, shortest = max(longest, nearest.tokens), min(shortest, nearest.tokens)

    def remove(self, request: R) -> list[Row[R]]:
        entry = self._entries.get(request)
        if entry is None:
            return []
        rows = [row for _, _, row in entry.rows if row.is_waiting]
        for row in rows:
            self._leave(row)
        self._shelves[request.model].sweep(row.tokens for row in rows)
        return rows

    def overdue(self, now: float) -> list[R]:
        late = []
        while self._deadlines and self._deadlines[0][0] <= now:
            entry = self._tickets.get(heapq.heappop(self._deadlines)[1])
            if entry is not None:
                self.remove(entry.request)
                late.append(entry.request)
        return late

    def _enter(self, request: R) -> _Entry[R]:
        self._last_ticket += 1
        entry = self._entries[request] = self._tickets[self._last_ticket] = _Entry(request, self._last_ticket)
        heapq.heappush(self._order, (request.due, entry.ticket))
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, entry.ticket))
        return entry

    def _leave(self, row: Row[R]) -> None:
        row.is_waiting = False
        self.rows -= 1
        self.tokens -= row.tokens
        entry = self._entries[row.request]
        entry.waiting -= 1
        if entry.waiting == 0:
            del self._entries[row.request], self._tickets[entry.ticket]
