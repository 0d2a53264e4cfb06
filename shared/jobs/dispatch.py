"""What to send next: shards dealt fairly over the running jobs of a model, within a bound; pure.

Stride scheduling: a job that gets a shard moves forward by 1/weight, and the job furthest back gets the next one. A new
job starts where the furthest-back running job stands, so it neither waits for the old ones nor overtakes them all.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.jobs.job import Priority

# Shares of the device between jobs that run side by side.
WEIGHTS: dict[Priority, float] = {"high": 4.0, "normal": 2.0, "low": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    """A job as the dealer sees it."""

    id: str
    priority: Priority
    created_at: float  # unix seconds
    position: float | None  # its virtual time; None if it is new
    pending: Sequence[int]  # shards neither committed nor in flight, in the order to send them


@dataclass(frozen=True, slots=True)
class Dealt:
    """Shards to send, in this order, and every job's virtual time afterwards."""

    sends: list[tuple[str, int]]
    positions: dict[str, float]


def deal(jobs: Iterable[RunningJob], room: int) -> Dealt:
    """Up to `room` shards: the job furthest back first, the older one where two are level."""
    jobs = list(jobs)
    start = min((job.position for job in jobs if job.position is not None), default=0.0)
    positions = {job.id: start if job.position is None else job.position for job in jobs}
    heap = [(positions[job.id], job.created_at, job.id, 0, job) for job in jobs if job.pending]
    heapq.heapify(heap)
    sends: list[tuple[str, int]] = []
    while heap and len(sends) < room:
        _, created_at, job_id, sent, job = heapq.heappop(heap)
        sends.append((job_id, job.pending[sent]))
        positions[job_id] += 1.0 / WEIGHTS[job.priority]
        if sent + 1 < len(job.pending):
            heapq.heappush(heap, (positions[job_id], created_at, job_id, sent + 1, job))
    return Dealt(sends, positions)
