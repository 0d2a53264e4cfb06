"""What to send next: shards dealt fairly over the running jobs of a model, within a bound; pure.

Stride scheduling: a job that gets a shard moves forward by 1/weight, and the job furthest back gets the next one. So jobs
that always have something pending are never more than LONGEST_STRIDE apart. One that is further behind had nothing pending
for a while (all of it was in flight) and is brought up: nobody saves up turns. A new job starts one stride of its own ahead
of the furthest-back one: its turn comes within a few, and however many new ones arrive, those before them go first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.jobs.job import Priority

# Shares of the device between jobs that run side by side.
WEIGHTS: dict[Priority, float] = {"high": 4.0, "normal": 2.0, "low": 1.0}
LONGEST_STRIDE = 1.0 / min(WEIGHTS.values())


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
    known = [job.position for job in jobs if job.position is not None]
    floor = max(known, default=0.0) - LONGEST_STRIDE
    positions = {job.id: max(job.position, floor) for job in jobs if job.position is not None}
    start = min((positions[job.id] for job in jobs if job.id in positions and job.pending), default=max(known, default=0.0))
    positions |= {job.id: start + 1.0 / WEIGHTS[job.priority] for job in jobs if job.id not in positions}
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
