"""Job: a bulk submission as its manifest tells it, what was decided about it since, and the status that follows."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

from shared.records import ShardCounts

Priority = Literal["high", "normal", "low"]
Status = Literal["validating", "queued", "in_progress", "paused", "completed", "failed", "cancelled"]
FINISHED: frozenset[Status] = frozenset({"completed", "failed", "cancelled"})

# A rate is told from the shards committed in the last so many seconds.
RATE_WINDOW_S = 60.0


def new_job_id() -> str:
    """Unguessable: 144 bits."""
    return f"job_{secrets.token_hex(18)}"


class JobParameters(BaseModel):
    """How a job's texts are embedded."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    dimensions: int | None = None
    input_type: Literal["query", "document"] | None = None
    prompt_name: str | None = None
    truncate: Literal["end", "error"] | None = None


class Job(BaseModel):
    """The manifest, job.json: written once, last, after the whole input lies in storage."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    owner: str
    model: str
    created_at: float  # unix seconds
    shards: tuple[int, ...]  # rows of each
    parameters: JobParameters = JobParameters()
    priority: Priority = "normal"
    metadata: dict[str, str] | None = None
    idempotency_key: str | None = None  # digest of the caller's key
    input_digest: str | None = None  # SHA-256 of the submitted body and its parameters

    @property
    def rows(self) -> int:
        """Rows of the whole job."""
        return sum(self.shards)


class Counts(BaseModel):
    """Rows by what became of them."""

    model_config = ConfigDict(frozen=True)

    total: int = 0
    completed: int = 0
    failed: int = 0
    truncated: int = 0
    deduplicated: int = 0
    tokens: int = 0


class Done(BaseModel):
    """The end of a job, done.json: created once by whoever saw that nothing was pending."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    status: Literal["completed", "failed", "cancelled"]
    finished_at: float
    counts: Counts
    started_at: float | None = None
    reason: str | None = None  # why it failed as a whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What was decided about a job after its manifest: each is one object in storage."""

    cancelled_at: float | None = None
    paused_at: float | None = None
    done: Done | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job, its marks, and its committed shards: all that a status page needs."""

    job: Job
    marks: Marks
    committed: Mapping[int, ShardCounts] = field(default_factory=dict)
    is_started: bool = False  # a shard is being run now

    @property
    def status(self) -> Status:
        """Derived from the marks and the committed shards, never stored beside them."""
        if self.marks.done is not None:
            return self.marks.done.status
        if self.marks.cancelled_at is not None:
            return "cancelled"
        if self.marks.paused_at is not None:
            return "paused"
        return "in_progress" if self.committed or self.is_started else "queued"

    @property
    def counts(self) -> Counts:
        """Final if the job is done, else of the committed shards."""
        return self.marks.done.counts if self.marks.done is not None else add_up(self.job.rows, self.committed.values())

    @property
    def started_at(self) -> float | None:
        """Start of the first committed shard, unix seconds."""
        if self.marks.done is not None:
            return self.marks.done.started_at
        return min((counts.started_at for counts in self.committed.values()), default=None)

    @property
    def finished_at(self) -> float | None:
        """Unix seconds, or None while it runs."""
        return self.marks.done.finished_at if self.marks.done is not None else self.marks.cancelled_at

    def rows_per_second(self, now: float) -> float | None:
        """Rows committed lately over the time they took; over the whole run if the job is done. None before the first."""
        if self.marks.done is not None:
            spent = self.marks.done.finished_at - (self.marks.done.started_at or self.job.created_at)
            done = self.counts.completed + self.counts.failed
            return done / spent if spent > 0 and done else None
        recent = [counts for counts in self.committed.values() if counts.finished_at > now - RATE_WINDOW_S]
        if not recent:
            return None
        since = max(min(counts.started_at for counts in recent), now - RATE_WINDOW_S)
        return sum(counts.rows for counts in recent) / max(now - since, 1e-3)

    def eta_seconds(self, now: float) -> float | None:
        """Rows left over the rate; None if it is not running or nothing is known."""
        rate = self.rows_per_second(now)
        if self.status != "in_progress" or not rate:
            return None
        counts = self.counts
        return (counts.total - counts.completed - counts.failed) / rate


def add_up(total: int, committed: Iterable[ShardCounts]) -> Counts:
    """The counts of a job of `total` rows of which these shards are committed."""
    rows = failed = truncated = deduplicated = tokens = 0
    for counts in committed:
        rows += counts.rows
        failed += counts.failed
        truncated += counts.truncated
        deduplicated += counts.deduplicated
        tokens += counts.tokens
    return Counts(
        total=total, completed=rows - failed, failed=failed, truncated=truncated, deduplicated=deduplicated, tokens=tokens
    )
