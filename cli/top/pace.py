"""Pace: how fast jobs go and when they end, from how far they were a while ago. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from cli.top.overview import Job, Overview

# Shards come in steps: shorter, and the rate would jump; longer, and it would lag.
WINDOW_S = 60.0


@dataclass(slots=True)
class Pace:
    """Rates of the jobs in the overviews that it was told of."""

    _seen: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)  # job -> (unix seconds, shards done)

    def tell(self, overview: Overview) -> None:
        """One more overview; jobs that are not in it are forgotten."""
        self._seen = {job.id: self._seen.get(job.id, deque()) for job in overview.jobs}
        for job in overview.jobs:
            seen = self._seen[job.id]
            seen.append((overview.at, job.shards_done))
            while len(seen) > 2 and seen[1][0] < overview.at - WINDOW_S:
                seen.popleft()

    def texts_per_second(self, job: Job) -> float | None:
        """None until it moved."""
        seen = self._seen.get(job.id)
        if not seen or job.status != "in_progress" or not job.shards:
            return None
        (began_at, began), (at, done) = seen[0], seen[-1]
        if done <= began or at <= began_at:
            return None
        return (done - began) * job.rows / job.shards / (at - began_at)

    def eta_s(self, job: Job) -> float | None:
        """None where there is no rate."""
        rate = self.texts_per_second(job)
        return None if rate is None else job.rows * (1 - job.share) / rate
