"""SeenIds: which ids a job has had already, in 16 bytes a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Runs of so many rows are merged no more: merging takes as much memory again.
MAX_RUN_ROWS = 4 * 2**20


class SeenIds:
    """Sorted runs of 64-bit hashes, each with the place of its row, looked up a shard at a time.

    Two ids of one hash count as the same, which is not looked into: Python's hash of a string is keyed anew in each process,
    so nobody can aim at it, and among a hundred million rows the chance of a single such pair is one in four thousand.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # hashes ascending, and places

    def add(self, ids: Sequence[str], places: Sequence[int]) -> list[int | None]:
        """For each id, in order, the place of the row that had it first; None for a new one, which is known from now on."""
        hashes = np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
        order = np.argsort(hashes, kind="stable")
        hashes, at = hashes[order], np.asarray(places, dtype=np.int64)[order]
        first = np.full(len(ids), -1, dtype=np.int64)
        for run_hashes, run_places in self._runs:
            found = np.searchsorted(run_hashes, hashes)
            found[found == len(run_hashes)] = 0
            is_there = run_hashes[found] == hashes
            first[is_there] = run_places[found[is_there]]
        # Among themselves: the sort is stable, so that the first of equal ones is the first of them all.
        begins = np.ones(len(ids), dtype=bool)
        begins[1:] = hashes[1:] != hashes[:-1]
        repeated = (first < 0) & ~begins
        first[repeated] = at[np.maximum.accumulate(np.where(begins, np.arange(len(ids)), 0))][repeated]
        is_new = first < 0
        if is_new.any():
            self._keep(hashes[is_new], at[is_new])
        answer = np.empty(len(ids), dtype=np.int64)
        answer[order] = first
        return [None if place < 0 else place for place in answer.tolist()]

    def _keep(self, hashes: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        """Each run is more than twice as long as the next, so that there are few of them."""
        while self._runs and len(self._runs[-1][0]) <= 2 * len(hashes) and len(self._runs[-1][0]) + len(hashes) <= MAX_RUN_ROWS:
            last_hashes, last_places = self._runs.pop()
            hashes, places = np.concatenate([last_hashes, hashes]), np.concatenate([last_places, places])
            order = np.argsort(hashes, kind="stable")
            hashes, places = hashes[order], places[order]
        self._runs.append((hashes, places))
