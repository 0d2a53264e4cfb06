"""The batcher: what goes next, checked as properties over random arrivals and as the few cases that matter."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.backends import TokenizedText
from worker.batcher import (
    PADDING_TOKENS,
    PRESENT_S,
    UNMEASURED_TOKENS,
    Batch,
    Batcher,
    Line,
    Row,
)

BUDGET = 256
SHARE = 0.2


@dataclass(eq=False)
class Ask:
    """A request as the batcher sees it."""

    line: Line = "short"
    model: str = "m"
    due: float = 0.0
    deadline: float | None = None


def rows_of(request: Ask, *lengths: int) -> list[Row[Ask]]:
    return [Row(request, position, TokenizedText(np.zeros(length, np.int32), False)) for position, length in enumerate(lengths)]


def batcher(*requests: list[Row[Ask]], now: float = 0.0, max_batch_tokens: int = BUDGET) -> Batcher[Ask]:
    made: Batcher[Ask] = Batcher(max_batch_tokens=max_batch_tokens, batch_target_s=0.1, bulk_share=SHARE)
    for rows in requests:
        made.add(rows, now)
    return made


def drain(made: Batcher[Ask], now: float = 0.0) -> list[Batch[Ask]]:
    batches = []
    while (batch := made.next_batch(now)) is not None:
        batches.append(batch)
    return batches


def lengths_of(batch: Batch[Ask] | None) -> list[int]:
    assert batch is not None
    return sorted(row.tokens for row in batch.rows)


REQUESTS = st.lists(
    st.tuples(
        st.builds(
            Ask,
            line=st.sampled_from(["short", "long", "bulk"]),
            model=st.sampled_from(["m", "n"]),
            due=st.floats(0, 100),
            deadline=st.none(),
        ),
        st.lists(st.integers(1, 600), min_size=1, max_size=40),
    ),
    max_size=12,
)


@given(REQUESTS, st.floats(0, 20))
@settings(deadline=None)
def test_every_row_goes_exactly_once_within_the_budget(requests: list[tuple[Ask, list[int]]], now: float) -> None:
    made = batcher()
    waiting = []
    for request, lengths in requests:
        rows = rows_of(request, *lengths)
        waiting += rows
        made.add(rows, 0.0)

    batches = drain(made, now)

    gone = [row for batch in batches for row in batch.rows]
    assert len(gone) == len(waiting)
    assert {id(row) for row in gone} == {id(row) for row in waiting}
    for batch in batches:
        assert batch.padded_tokens <= BUDGET or len(batch.rows) == 1
        assert batch.padded_tokens <= batch.budget or len(batch.rows) == 1
        assert {(row.request.model, row.request.line) for row in batch.rows} == {(batch.model, batch.line)}
        longest, shortest = max(row.tokens for row in batch.rows), min(row.tokens for row in batch.rows)
        assert longest - shortest <= max(longest // 4, PADDING_TOKENS)
    assert len(made) == made.waiting_tokens("interactive") == made.waiting_tokens("bulk") == 0
    assert made.next_batch(now) is None


@given(REQUESTS)
@settings(deadline=None)
def test_bulk_never_goes_before_waiting_asks_but_for_its_floor_share(requests: list[tuple[Ask, list[int]]]) -> None:
    made = batcher(*(rows_of(request, *lengths) for request, lengths in requests))

    spent = {"asks": 0, "bulk": 0}
    while True:
        asks_wait, bulk_waits = made.waiting_tokens("interactive") > 0, made.waiting_tokens("bulk") > 0
        batch = made.next_batch(0.0)
        if batch is None:
            break
        if asks_wait and bulk_waits:
            spent["bulk" if batch.line == "bulk" else "asks"] += batch.padded_tokens
            # A turn is given when it was earned, not before; and one is earned by the time that all asks before it took.
            assert spent["bulk"] <= SHARE / (1 - SHARE) * spent["asks"] + 1e-6
        elif asks_wait:
            assert batch.line != "bulk"


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30), st.lists(st.integers(1, 300), min_size=30, max_size=60))
@settings(deadline=None)
def test_bulk_never_starves_while_questions_never_cease(lengths: list[int], of_bulk: list[int]) -> None:
    made = batcher(rows_of(Ask("bulk"), *of_bulk))

    asks = bulk = 0
    for length in lengths * 50:
        made.add(rows_of(Ask(), length), 0.0)
        while (batch := made.next_batch(0.0)) is not None and batch.line == "bulk":
            bulk += batch.padded_tokens
        if batch is None or made.waiting_tokens("bulk") == 0:
            break
        asks += batch.padded_tokens
        # At most what one batch costs is owed.
        assert bulk >= SHARE / (1 - SHARE) * asks - max(UNMEASURED_TOKENS, 300) - SHARE * 300


@given(REQUESTS)
@settings(deadline=None)
def test_among_asks_the_first_due_gives_the_batch(requests: list[tuple[Ask, list[int]]]) -> None:
    made = batcher(*(rows_of(request, *lengths) for request, lengths in requests))
    waiting = {request: len(lengths) for request, lengths in requests if request.line != "bulk"}

    while (batch := made.next_batch(0.0)) is not None:
        if batch.line != "bulk":
            assert min(request.due for request, rows in waiting.items() if rows) == batch.rows[0].request.due
            for row in batch.rows:
                waiting[row.request] -= 1


def test_a_bulk_turn_that_nobody_needed_is_not_saved_up() -> None:
    made = batcher()
    for _ in range(100):
        made.add(rows_of(Ask(), 100), 0.0)
        made.next_batch(0.0)

    made.add([*rows_of(Ask("bulk"), 10), *rows_of(Ask(), 10)], 0.0)

    assert [batch.line for batch in drain(made)] == ["short", "bulk"]


@given(REQUESTS, st.data())
@settings(deadline=None)
def test_a_removed_request_takes_its_rows_with_it_and_nobody_elses(
    requests: list[tuple[Ask, list[int]]], data: st.DataObject
) -> None:
    made = batcher(*(rows_of(request, *lengths) for request, lengths in requests))
    before = [row for _ in range(data.draw(st.integers(0, 3))) if (batch := made.next_batch(0.0)) for row in batch.rows]
    removed = data.draw(st.sampled_from([request for request, _ in requests])) if requests else Ask()

    taken_out = made.remove(removed)

    after = [row for batch in drain(made) for row in batch.rows]
    assert {row.request for row in taken_out} <= {removed}
    assert removed not in {row.request for row in after}
    assert len(before) + len(taken_out) + len(after) == sum(len(lengths) for _, lengths in requests)
    assert made.remove(removed) == []


def test_the_ask_that_is_due_first_goes_first() -> None:
    late, soon = Ask(due=9.0), Ask(due=3.0)
    made = batcher(rows_of(late, 200), rows_of(soon, 100))

    assert [[row.request for row in batch.rows] for batch in drain(made)] == [[soon], [late]]


def test_a_batch_is_filled_with_the_rows_nearest_in_length_of_any_request() -> None:
    made = batcher(rows_of(Ask("bulk", due=1.0), 30), rows_of(Ask("bulk", due=2.0), 8, 29, 31, 33, 60, 32, 250))

    assert lengths_of(made.next_batch(0.0)) == [29, 30, 31, 32, 33]


def test_the_longest_row_of_a_request_goes_first() -> None:
    made = batcher(rows_of(Ask("bulk"), 10, 100, 50, 101))

    assert [lengths_of(batch) for batch in drain(made)] == [[100, 101], [50], [10]]


def test_rows_that_arrive_in_slices_belong_to_one_request() -> None:
    request = Ask("bulk")
    made = batcher(rows_of(request, 10))
    assert lengths_of(made.next_batch(0.0)) == [10]

    made.add(rows_of(request, 12), 0.0)

    assert lengths_of(made.next_batch(0.0)) == [12]


def test_a_row_over_the_budget_goes_alone() -> None:
    made = batcher(rows_of(Ask(), 300, 301))

    assert [lengths_of(batch) for batch in drain(made)] == [[301], [300]]


def test_requests_whose_deadline_passed_are_told_once_and_their_rows_are_out() -> None:
    late, alive = Ask(deadline=10.0), Ask(deadline=20.0)
    made = batcher(rows_of(late, 5, 6), rows_of(alive, 5))

    assert made.overdue(9.0) == []
    assert made.overdue(10.0) == [late]
    assert made.overdue(11.0) == []
    assert [row.request for batch in drain(made) for row in batch.rows] == [alive]
    assert made.overdue(30.0) == []


def test_bulk_batches_last_about_the_target_while_somebody_interactive_is_present() -> None:
    made = batcher(rows_of(Ask("bulk"), *[10] * 100), max_batch_tokens=500)
    made.measured("m", tokens=1000, seconds=1.0)
    assert made.budget("m", "bulk", 100.0) == 500
    made.add(rows_of(Ask("long"), 10), now=100.0)
    assert made.next_batch(100.0) is not None

    assert made.budget("m", "bulk", 100.0) == 100
    assert lengths_of(made.next_batch(100.0)) == [10] * 10
    assert made.budget("m", "bulk", 100.0 + PRESENT_S) == 500


def test_batches_of_long_asks_are_bounded_while_short_ones_come_and_those_of_short_ones_always() -> None:
    made = batcher(rows_of(Ask("long"), *[10] * 100), max_batch_tokens=500)
    made.measured("m", tokens=1000, seconds=1.0)

    assert made.budget("m", "long", 0.0) == 500
    assert made.budget("m", "short", 0.0) == 100
    made.add(rows_of(Ask(), 10), now=100.0)
    assert made.budget("m", "long", 100.0) == 100
    assert made.budget("m", "long", 100.0 + PRESENT_S) == 500


def test_nobody_waits_for_the_rows_of_a_line_behind_his() -> None:
    made = batcher(rows_of(Ask("long", due=2.0), *[10] * 20), rows_of(Ask("short", due=1.0), 10), rows_of(Ask("bulk"), 10))

    assert [batch.line for batch in drain(made)] == ["short", "long", "bulk"]


def test_a_long_ask_that_is_due_goes_before_a_short_one() -> None:
    made = batcher(rows_of(Ask("long", due=1.0), 10), rows_of(Ask("short", due=2.0), 10))

    assert [batch.line for batch in drain(made)] == ["long", "short"]


def test_a_batch_that_says_little_of_the_speed_is_told_from_one_that_says_much() -> None:
    made = batcher(rows_of(Ask(), 10), max_batch_tokens=500)
    assert not made.next_batch(0.0).tells_the_pace  # type: ignore[union-attr]
    made.add(rows_of(Ask(), *[10] * 40), 0.0)
    assert made.next_batch(0.0).tells_the_pace  # type: ignore[union-attr]
    made.add(rows_of(Ask("bulk"), 10), 0.0)
    assert made.next_batch(0.0).tells_the_pace  # type: ignore[union-attr]


def test_a_bulk_batch_has_at_least_one_row_however_slow_the_model() -> None:
    made = batcher(rows_of(Ask("bulk"), 50, 51))
    made.measured("m", tokens=1, seconds=60.0)
    made.add(rows_of(Ask(), 10), now=0.0)
    made.next_batch(0.0)

    assert [len(batch.rows) for batch in drain(made)] == [1, 1]


def test_a_rate_follows_what_was_measured_lately() -> None:
    made = batcher()
    assert made.tokens_per_s("m") is None
    for _ in range(100):
        made.measured("m", tokens=100, seconds=1.0)
    assert made.tokens_per_s("m") == pytest.approx(100)
    for _ in range(20):
        made.measured("m", tokens=300, seconds=1.0)
    assert made.tokens_per_s("m") == pytest.approx(300, rel=0.02)
    # One tiny batch, all overhead, says little.
    made.measured("m", tokens=1, seconds=0.01)
    assert made.tokens_per_s("m") == pytest.approx(300, rel=0.02)


def test_a_limit_only_goes_down() -> None:
    made = batcher()
    made.limit("m", 100)
    made.limit("m", 200)

    assert made.budget("m", "bulk", 0.0) == 100
    assert made.budget("n", "bulk", 0.0) == BUDGET


def test_fifty_thousand_waiting_rows_go_with_hardly_any_padding() -> None:
    lengths = np.random.default_rng(7).integers(1, 256, 50_000).tolist()
    made = batcher(rows_of(Ask("bulk"), *lengths), max_batch_tokens=2048)

    batches = drain(made)

    assert sum(len(batch.rows) for batch in batches) == 50_000
    assert sum(batch.padded_tokens for batch in batches) < 1.02 * sum(lengths)


def test_a_request_that_is_out_is_let_go() -> None:
    made = batcher(rows_of(Ask("bulk"), 5, 6))
    removed, ran = Ask("bulk", due=-2.0, deadline=99.0), Ask("bulk", due=-1.0, deadline=99.0)
    made.add(rows_of(removed, 5, 6, 200), 0.0)
    made.add(rows_of(ran, 200), 0.0)
    gone = [weakref.ref(removed), weakref.ref(ran)]

    made.remove(removed)
    made.next_batch(0.0)
    del removed, ran

    assert [request() for request in gone] == [None, None]
    assert len(made) == 2
