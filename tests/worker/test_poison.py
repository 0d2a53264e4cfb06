"""The rows that kill a worker are found by halving; everything else is embedded exactly once."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from worker.poison import Span, plan


def run_until_done(rows: int, poison: set[int], max_attempts: int) -> tuple[set[int], set[int], int]:
    """Run the plan as workers would that die on a poison row: rows that ended well, rows given up, number of deaths."""
    crashes: Counter[Span] = Counter()
    finished: set[Span] = set()
    while True:
        todo = plan(rows, crashes, finished, max_attempts)
        if not todo.spans:
            return {row for first, last in finished for row in range(first, last)}, set(todo.poison), crashes.total()
        for first, last in todo.spans:
            if poison & set(range(first, last)):
                crashes[first, last] += 1
                break  # the process is gone
            finished.add((first, last))


@given(rows=st.integers(1, 200), data=st.data(), max_attempts=st.integers(1, 4))
def test_exactly_the_poison_rows_are_given_up(rows: int, data: st.DataObject, max_attempts: int) -> None:
    poison = data.draw(st.sets(st.integers(0, rows - 1), max_size=4))
    good, given_up, _ = run_until_done(rows, poison, max_attempts)
    assert given_up == poison
    assert good == set(range(rows)) - poison


def test_one_poison_row_costs_a_logarithm_of_deaths() -> None:
    _, _, deaths = run_until_done(1024, {700}, 3)
    assert deaths == 3 + 9 + 3  # the whole shard, nine halvings, the row alone


def test_a_shard_that_crashed_less_often_than_allowed_is_run_whole() -> None:
    assert plan(100, {(0, 100): 2}, (), 3).spans == [(0, 100)]
    assert plan(100, {(0, 100): 3}, (), 3).spans == [(0, 50), (50, 100)]


def test_finished_parts_are_not_run_again() -> None:
    assert plan(100, {(0, 100): 3}, {(0, 50)}, 3).spans == [(50, 100)]
