"""Which rows go through the model next: the waiting rows of both lanes, by length, and the decision. No clock, no thread.

Rows wait in three lines: of short asks, of long asks (more than a batch of the target's length), and of bulk. A batch holds
rows of one line and one model, so nobody waits for the rows of a line behind his. Asks go first, in the order they are due;
bulk keeps a floor share. The request that is due first gives the first row, its longest; the batch is filled with the
rows nearest in length, whoever they belong to, as long as its padded tokens stay within the budget.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from worker.backends import TokenizedText
from worker.pace import Pace

Lane = Literal["interactive", "bulk"]
Line = Literal["short", "long", "bulk"]

LINES: dict[Lane, tuple[Line, ...]] = {"interactive": ("short", "long"), "bulk": ("bulk",)}
# Somebody counts as present for so long after the last row.
PRESENT_S = 5.0
# Batches of a model that was never measured, where they are bounded by time.
UNMEASURED_TOKENS = 512
# What tokens cost, to compare lanes, before the model was measured.
ASSUMED_TOKENS_PER_S = 2_000.0
# A row is padded by at most a quarter of the longest, or by what a batch costs of its own (launching, Python): about
# so many padded tokens of a small model on a CPU core.
PADDING_TOKENS = 16


class Request(Hashable, Protocol):
    """What the batcher must know of the owner of a row."""

    @property
    def model(self) -> str:
        """Its name."""

    @property
    def line(self) -> Line:
        """Which of the three; it stays the same."""

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
    line: Line
    rows: list[Row[R]]
    budget: int  # padded tokens that it might have had

    @property
    def padded_tokens(self) -> int:
        """What it costs: rows x longest row."""
        return len(self.rows) * max(row.tokens for row in self.rows)

    @property
    def tells_the_pace(self) -> bool:
        """Whether it says how fast the model is: bulk runs all day; a question alone is mostly what a batch costs of its own."""
        return self.line == "bulk" or 2 * self.padded_tokens >= self.budget


class Batcher(Generic[R]):
    """The waiting rows, and what was learnt about the models' speed and limits. `now` is in unix seconds."""

    def __init__(
        self,
        *,
        max_batch_tokens: int,
        batch_target_s: float,
        bulk_share: float = 0.1,
        max_tokens_of: Mapping[str, int] | None = None,
    ) -> None:
        """`bulk_share`: of the device's time, which bulk has while asks never cease. `max_tokens_of`: by model, if others."""
        self._max_batch_tokens = max_batch_tokens
        self._max_tokens_of = max_tokens_of or {}
        self._batch_target_s = batch_target_s
        self._bulk_share = bulk_share
        self._lines: dict[Line, _Line[R]] = {"short": _Line(), "long": _Line(), "bulk": _Line()}
        self._limits: dict[str, int] = {}
        self._paces: dict[str, Pace] = {}
        # Who is asked after: a batch of a line is bounded by time while somebody in a line before it was seen lately.
        self._present_until: dict[Line, float] = dict.fromkeys(self._lines, float("-inf"))
        self._owed_to_bulk_s = 0.0

    def __len__(self) -> int:
        return sum(line.rows for line in self._lines.values())

    def limit_batches(self, max_tokens_of: Mapping[str, int]) -> None:
        """The models' own ceilings in padded tokens, as their entries say from now on; of those not named the common one."""
        for model in self._max_tokens_of.keys() | max_tokens_of.keys():
            if self._max_tokens_of.get(model) != max_tokens_of.get(model):
                self._paces.pop(model, None)  # the sizes it was measured with are others
        self._max_tokens_of = max_tokens_of

    def add(self, rows: Iterable[Row[R]], now: float) -> None:
        """Rows that wait from now on."""
        for row in rows:
            self._lines[row.request.line].add(row)
            self._present_until[row.request.line] = now + PRESENT_S

    def remove(self, request: R) -> list[Row[R]]:
        """Take the rows of a request that are in no batch yet out, and return them."""
        return self._lines[request.line].remove(request)

    def overdue(self, now: float) -> list[R]:
        """Requests whose deadline passed while rows of theirs waited; those rows are out."""
        return [request for line in self._lines.values() for request in line.overdue(now)]

    def next_batch(self, now: float) -> Batch[R] | None:
        """The rows that go next; they are no longer waiting. None if nothing waits."""
        asked = [seed for line in LINES["interactive"] if (seed := self._lines[line].seed()) is not None]
        ask, bulk = min(asked, key=lambda seed: seed.request.due, default=None), self._lines["bulk"].seed()
        if ask is None or bulk is None:
            self._owed_to_bulk_s = 0.0  # a turn that nobody needed is not saved up
        seed = ask
        if bulk is not None and (ask is None or self._owed_to_bulk_s >= self._cost_s(bulk, now)):
            seed = bulk
        if seed is None:
            return None
        model, line = seed.request.model, seed.request.line
        budget = self.budget(model, line, now)
        if not self._is_bounded(line, now):
            budget = min(budget, self._pace(model).next_size())
        batch = Batch(model, line, self._lines[line].take(seed, budget), budget)
        if ask is not None and bulk is not None:
            spent_s = batch.padded_tokens / self._speed(model)
            self._owed_to_bulk_s += -spent_s if line == "bulk" else spent_s * self._bulk_share / (1 - self._bulk_share)
        return batch

    def budget(self, model: str, line: Line, now: float) -> int:
        """Padded tokens that the next batch may have at most; a single longer row goes alone."""
        most = self._most(model)
        if not self._is_bounded(line, now):
            return most
        rate = self.tokens_per_s(model)
        return max(1, min(most, UNMEASURED_TOKENS if rate is None else int(rate * self._batch_target_s)))

    def waiting_tokens(self, lane: Lane) -> int:
        """Tokens of the lane's waiting rows, without padding."""
        return sum(self._lines[line].tokens for line in LINES[lane])

    def limit(self, model: str, max_tokens: int) -> None:
        """Keep the batches of a model below so many padded tokens from now on; a higher limit than before changes nothing."""
        self._limits[model] = max(1, min(max_tokens, self._limits.get(model, max_tokens)))

    def measured(self, model: str, tokens: int, seconds: float) -> None:
        """A batch of so many padded tokens took so long."""
        self._pace(model).add(tokens, seconds)

    def tokens_per_s(self, model: str) -> float | None:
        """Padded tokens a second in one batch of this model, lately; None before the first."""
        return self._pace(model).tokens_per_s

    def _most(self, model: str) -> int:
        most = self._max_tokens_of.get(model, self._max_batch_tokens)
        return min(most, self._limits.get(model, most))

    def _is_bounded(self, line: Line, now: float) -> bool:
        """By time. Questions always: the next one waits for them. The others while a line before theirs has somebody."""
        before: dict[Line, tuple[Line, ...]] = {"short": (), "long": ("short",), "bulk": ("short", "long")}
        return line == "short" or any(now < self._present_until[other] for other in before[line])

    def _pace(self, model: str) -> Pace:
        if model not in self._paces:
            self._paces[model] = Pace(self._max_tokens_of.get(model, self._max_batch_tokens))
        return self._paces[model]

    def _speed(self, model: str) -> float:
        return self.tokens_per_s(model) or ASSUMED_TOKENS_PER_S

    def _cost_s(self, seed: Row[R], now: float) -> float:
        """What a batch that begins with this row is going to take at most."""
        model = seed.request.model
        return max(seed.tokens, self.budget(model, seed.request.line, now)) / self._speed(model)


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
