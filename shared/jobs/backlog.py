"""What is left of all jobs together: by status, in shards, and in tokens, which tell how many workers it is worth; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shared.jobs.job import Job, Status

# UTF-8 bytes of input that count as a token: what English has, and Japanese about.
BYTES_OF_TOKEN = 4


def estimated_tokens(job: Job) -> int:
    """Of the whole job, before anybody tokenized it: what its shards were cut for, or what its bytes suggest.

    Of an input that is not read yet nothing is known, but that it is worth at least one shard.
    """
    if job.source is not None and job.source.shard_tokens is not None:
        return int(max(1, len(job.shards)) * job.source.shard_tokens)
    return max(1, sum(job.shards), job.input_bytes // BYTES_OF_TOKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedJob:
    """A job or batch as the backlog counts it."""

    created_at: float  # unix seconds
    is_paused: bool
    is_prepared: bool
    shards: int
    committed: int
    in_flight: int  # steps sent and not lost
    tokens: int  # of the whole job

    @property
    def status(self) -> Status:
        """As a look at the job would say it."""
        if self.is_paused:
            return "paused"
        if not self.is_prepared:
            return "validating"
        return "in_progress" if self.committed or self.in_flight else "queued"

    @property
    def waiting_tokens(self) -> int:
        """Tokens of its shards that are not committed; none of a paused job, for which no worker is wanted."""
        if self.is_paused:
            return 0
        return self.tokens * (self.shards - self.committed) // self.shards if self.shards else self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """All unfinished jobs together."""

    jobs: Mapping[Status, int] = field(default_factory=dict)
    pending_shards: int = 0
    in_flight_shards: int = 0
    committed_shards: int = 0
    waiting_tokens: int = 0
    oldest_created_at: float | None = None  # of those that are not paused, unix seconds


def add_up_backlog(jobs: Iterable[UnfinishedJob]) -> Backlog:
    """Of these jobs."""
    jobs = list(jobs)
    in_flight = sum(min(job.in_flight, job.shards - job.committed) for job in jobs)
    left = sum(job.shards - job.committed for job in jobs)
    return Backlog(
        jobs=Counter(job.status for job in jobs),
        pending_shards=left - in_flight,
        in_flight_shards=in_flight,
        committed_shards=sum(job.committed for job in jobs),
        waiting_tokens=sum(job.waiting_tokens for job in jobs),
        oldest_created_at=min((job.created_at for job in jobs if not job.is_paused), default=None),
    )
