"""The pace of a model: its rate, and the size of batch that gives the most, found by what batches took."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pace import SIZES, TRY_EVERY, Pace

MOST = 2048


def run(pace: Pace, batches: int, tokens_per_s: Callable[[int], float]) -> None:
    for _ in range(batches):
        size = pace.next_size()
        pace.add(size, size / tokens_per_s(size))


def test_before_it_was_measured_the_largest_batch_is_the_best() -> None:
    assert Pace(MOST).best_size == MOST
    assert Pace(MOST).tokens_per_s is None


@pytest.mark.parametrize("best", [2048, 1024, 512, 256])
def test_the_size_that_gives_most_is_found(best: int) -> None:
    pace = Pace(MOST)

    run(pace, 500, lambda size: 3000.0 - 300 * abs(math.log2(size / best)))

    assert pace.best_size == best


def test_a_gain_within_the_noise_changes_nothing() -> None:
    pace = Pace(MOST)

    run(pace, 500, lambda size: 3000.0 if size < MOST else 2950.0)

    assert pace.best_size == MOST


def test_what_was_best_once_is_found_out_when_it_is_best_no_longer() -> None:
    pace = Pace(MOST)
    run(pace, 300, lambda size: 3000.0 if size == 512 else 2500.0 - size / 10)
    assert pace.best_size == 512

    run(pace, 1000, lambda size: 1000.0 + size)

    assert pace.best_size == MOST


def test_most_batches_have_the_best_size() -> None:
    pace = Pace(MOST)

    sizes = [pace.next_size() for _ in range(10 * TRY_EVERY)]

    assert sizes.count(MOST) >= 10 * (TRY_EVERY - 1)


def test_batches_that_were_not_filled_say_nothing_of_a_size() -> None:
    pace = Pace(MOST)

    for _ in range(100):
        pace.add(MOST, 1.0)
        pace.add(600, 0.01)

    assert pace.best_size == MOST


@given(st.integers(1, 10**6), st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 10)), max_size=60))
def test_a_size_is_never_above_the_most_nor_below_one(most: int, batches: list[tuple[int, float]]) -> None:
    pace = Pace(most)

    for tokens, seconds in batches:
        pace.add(tokens, seconds)
        assert max(1, most >> (SIZES - 1)) <= pace.next_size() <= most
        assert pace.tokens_per_s is not None
        assert pace.tokens_per_s > 0
