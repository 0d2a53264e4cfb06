"""SeenIds against a plain dictionary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.intake import duplicates
from shared.intake.duplicates import SeenIds


@given(st.lists(st.lists(st.integers(0, 40).map(str), max_size=15), max_size=12))
def test_it_knows_what_a_dictionary_knows(batches: list[list[str]]) -> None:
    seen, known, place = SeenIds(), dict[str, int](), 0
    for batch in batches:
        places = list(range(place, place + len(batch)))
        expected = []
        for each, at in zip(batch, places, strict=True):
            expected.append(known.get(each))
            known.setdefault(each, at)
        assert seen.add(batch, places) == expected
        place += len(batch)


def test_a_row_costs_sixteen_bytes_and_runs_stay_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MAX_RUN_ROWS", 30_000)
    seen = SeenIds()
    for start in range(0, 100_000, 100):
        assert seen.add([str(number) for number in range(start, start + 100)], range(start, start + 100)) == [None] * 100
    assert sum(hashes.nbytes + places.nbytes for hashes, places in seen._runs) == 16 * 100_000
    assert len(seen._runs) <= 20
    assert max(len(hashes) for hashes, _ in seen._runs) <= 30_000
    assert seen.add(["99999", "0", "new"], [1, 2, 3]) == [99_999, 0, None]
