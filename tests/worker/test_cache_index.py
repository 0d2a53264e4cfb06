"""The index finds every row of the segments it knows, the later one of two, and none of those that are gone."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from worker.cache_index import ROW_BYTES, CacheIndex
from worker.segments import Segment, digest_of


def digests(numbers: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    found = np.frombuffer(b"".join(digest_of(str(number)) for number in numbers), np.uint8).reshape(-1, 16)
    return found[np.lexsort(found.T[::-1])]


def segment(number: int, rows: int) -> Segment:
    return Segment(f"s{number}", float(number), rows, 0)


def places(index: CacheIndex, wanted: np.ndarray[Any, np.dtype[np.uint8]]) -> dict[bytes, tuple[str, int]]:
    found = {}
    for known, rows, positions in index.find(wanted):
        assert rows.tolist() == sorted(rows.tolist())
        found |= {wanted[at].tobytes(): (known.name, int(row)) for row, at in zip(rows, positions, strict=True)}
    return found


Step = st.one_of(st.frozensets(st.integers(0, 30), min_size=1), st.integers(0, 10))


@given(steps=st.lists(Step, max_size=12))
def test_it_knows_what_a_dictionary_would(steps: list[frozenset[int] | int]) -> None:
    index, known = CacheIndex(), {}
    for number, step in enumerate(steps):
        if isinstance(step, int):
            index.forget(segment(step, 0))
            known.pop(step, None)
        else:
            known[number] = digests(step)
            index.add(segment(number, len(step)), known[number])
    found = places(index, digests(range(32)))
    for digest in digests(range(32)):
        raw = digest.tobytes()
        holders = {(f"s{number}", row) for number, held in known.items() for row, one in enumerate(held) if one.tobytes() == raw}
        if raw in found:
            assert found[raw] in holders, "a row that is there, and holds it"
        elif holders:
            # The later of two segments that held it was forgotten: a miss, until it is kept again.
            assert len(known) < len([step for step in steps if not isinstance(step, int)])
    assert index.size == ROW_BYTES * len(index)


def test_of_two_segments_the_later_is_found() -> None:
    index = CacheIndex()
    for number in range(3):
        index.add(segment(number, 4), digests(range(4)))
    assert {name for name, _ in places(index, digests(range(4))).values()} == {"s2"}
    assert len(index) == 4


def test_many_segments_make_few_runs() -> None:
    index = CacheIndex()
    for number in range(200):
        index.add(segment(number, 3), digests(range(3 * number, 3 * number + 3)))
    assert len(index._runs) <= 10
    assert len(places(index, digests(range(600)))) == 600


def test_a_segment_is_added_once() -> None:
    index = CacheIndex()
    index.add(segment(1, 2), digests(range(2)))
    index.add(segment(1, 2), digests(range(2)))
    assert len(index) == 2
    assert segment(1, 2) in index


def test_a_segment_that_is_forgotten_takes_no_room() -> None:
    index = CacheIndex()
    for number in range(2):
        index.add(segment(number, 2), digests(range(2 * number, 2 * number + 2)))
    index.forget(segment(0, 2))
    assert len(index) == 2
    index.keep([])
    assert len(index) == 0
