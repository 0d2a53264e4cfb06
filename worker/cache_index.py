"""CacheIndex: where the vector of a text lies, by the first 8 bytes of its digest; sorted numpy arrays, 16 bytes a row."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from worker.segments import Digests, Ints, Segment, prefixes_of

ROW_BYTES = 16
_Numbers = np.ndarray[Any, np.dtype[np.uint64]]


class CacheIndex:
    """Segments come and go; not thread-safe, but `find` may run beside a change: it sees all of it or nothing.

    The rows stand in sorted runs whose sizes grow at least twofold, so a new segment costs little and a look a few searches.
    Where two digests begin alike the later segment is found: who reads the row compares all of the digest.
    """

    def __init__(self) -> None:
        # prefixes, ascending, and their places: a segment's number << 32 | its row
        self._runs: tuple[tuple[_Numbers, _Numbers], ...] = ()
        self._segments: dict[int, Segment] = {}
        self._numbers: dict[str, int] = {}
        self._last_number = 0

    def __len__(self) -> int:
        return sum(len(prefixes) for prefixes, _ in self._runs)

    def __contains__(self, segment: Segment) -> bool:
        return segment.name in self._numbers

    @property
    def size(self) -> int:
        """Bytes of it."""
        return len(self) * ROW_BYTES

    def add(self, segment: Segment, digests: Digests) -> None:
        """Rows of a new segment, in their order there, which is ascending."""
        if segment in self:
            return
        self._last_number += 1
        number = self._last_number
        self._segments[number] = segment
        self._numbers[segment.name] = number
        runs = [*self._runs, (prefixes_of(digests), np.arange(len(digests), dtype=np.uint64) | np.uint64(number << 32))]
        while len(runs) > 1 and len(runs[-2][0]) < 2 * len(runs[-1][0]):
            newer, older = runs.pop(), runs.pop()
            runs.append(_merged(older, newer))
        self._runs = tuple(runs)

    def keep(self, segments: Collection[Segment]) -> None:
        """Forget all other segments."""
        names = {segment.name for segment in segments}
        gone = [number for name, number in self._numbers.items() if name not in names]
        if not gone:
            return
        dead = np.array(gone, np.uint64)
        runs = []
        for prefixes, places in self._runs:
            alive = ~np.isin(places >> np.uint64(32), dead)
            if alive.any():
                runs.append((prefixes[alive], places[alive]))
        self._runs = tuple(runs)
        for number in gone:
            del self._numbers[self._segments.pop(number).name]

    def forget(self, segment: Segment) -> None:
        """It is gone."""
        self.keep([other for other in self._segments.values() if other.name != segment.name])

    def find(self, digests: Digests) -> list[tuple[Segment, Ints, Ints]]:
        """By segment: its rows, ascending, that may hold some of these digests, and the positions of those."""
        wanted = prefixes_of(digests)
        places = np.zeros(len(wanted), np.uint64)  # no segment has the number 0
        for prefixes, found in self._runs:  # later ones are newer
            at = np.minimum(np.searchsorted(prefixes, wanted), len(prefixes) - 1)
            places = np.where(prefixes[at] == wanted, found[at], places)
        numbers = (places >> np.uint64(32)).astype(np.int64)
        rows = (places & np.uint64(0xFFFFFFFF)).astype(np.int64)
        by_segment = []
        for number in np.unique(numbers[numbers > 0]).tolist():
            segment = self._segments.get(number)
            if segment is not None:  # else it is being forgotten
                positions = np.flatnonzero(numbers == number)
                positions = positions[np.argsort(rows[positions])]
                by_segment.append((segment, rows[positions], positions))
        return by_segment


def _merged(older: tuple[_Numbers, _Numbers], newer: tuple[_Numbers, _Numbers]) -> tuple[_Numbers, _Numbers]:
    prefixes, places = (np.concatenate(pair) for pair in zip(older, newer, strict=True))
    order = np.argsort(prefixes, kind="stable")  # of equal ones the newer comes last, and stays
    prefixes, places = prefixes[order], places[order]
    stays = np.append(prefixes[1:] != prefixes[:-1], True)
    return prefixes[stays], places[stays]
