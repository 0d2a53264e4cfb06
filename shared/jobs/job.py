"""Job: a bulk submission as its manifest tells it, what was decided about it since, and the status that follows."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

from shared.prompts import InputType
from shared.records import ShardCounts

Priority = Literal["high", "normal", "low"]
Kind = Literal["job", "batch"]
Status = Literal["validating", "queued", "in_progress", "paused", "completed", "failed", "cancelled", "expired"]
FINISHED: frozenset[Status] = frozenset({"completed", "failed", "cancelled", "expired"})

# Steps of a job that travel as shards do, with leases and tries: reading the source of its input and cutting it into shards,
# and writing what its end needs (a batch's output files).
PREPARE = -1
FINALIZE = -2

# A rate is told from the shards committed in the last so many seconds.
RATE_WINDOW_S = 60.0


def new_job_id() -> str:
    """Unguessable: 144 bits."""
    return f"job_{secrets.token_hex(18)}"


def new_batch_id() -> str:
    """As unguessable. A batch is a job that OpenAI's routes show, and only they: ids tell the two apart."""
    return f"batch_{secrets.token_hex(18)}"


class JobParameters(BaseModel):
    """How a job's texts are embedded."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    dimensions: int | None = None
    input_type: InputType | None = None
    prompt_name: str | None = None
    truncate: Literal["end", "error"] | None = None


class Source(BaseModel):
    """Input that was not uploaded with the job: a worker reads it, and the job is validating until then."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    url: str  # a name in storage (files/ID/content), or an fsspec URL under a root that the operator allows
    format: str | None  # as in shared.intake's table; None: as its first bytes tell
    compression: Literal["gzip", "zstd"] | None = None  # None: as its first bytes tell
    columns: dict[str, str] = {}  # for csv and parquet: text, id -> name of the column, where it is not the usual one
    metadata_columns: tuple[str, ...] | None = None  # None: all the others
    delimiter: str | None = None  # of csv
    file_id: str | None = None
    # How it is cut is decided when it is submitted: two tries at once, or one after another, write the same shards.
    shard_tokens: float | None = None
    max_shard_rows: int | None = None


class Job(BaseModel):
    """The manifest, job.json: written once, last, after the whole input lies in storage.

    Two things are decided later, each by an object of its own, and read together with it: `shards` of a job with a
    source (prepared.json), and the rounds of retried rows (rounds/N.json).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    owner: str
    model: str
    created_at: float  # unix seconds
    shards: tuple[int, ...]  # rows of each; those of retry rounds at the end
    kind: Kind = "job"
    source: Source | None = None
    is_prepared: bool = True
    prepared_at: float | None = None  # unix seconds; of a job with a source
    requests: int = 0  # of a batch that is prepared: lines of its file, each of which is one or more rows
    rounds: tuple[int, ...] = ()  # shards of each retry round
    parameters: JobParameters = JobParameters()
    priority: Priority = "normal"
    metadata: dict[str, str] | None = None
    on_duplicate: Literal["error", "keep"] = "error"
    dedupe: bool = False
    cache: bool = False
    webhook_url: str | None = None
    batch: dict[str, str | int] | None = None  # of a batch: what OpenAI's object says beyond a job
    idempotency_key: str | None = None  # digest of the caller's key
    input_bytes: int = 0  # of the submitted body; 0 if the input is a file or a URL
    traceparent: str | None = None  # the span that submitted it
    input_digest: str | None = None  # SHA-256 of the submitted body and its parameters

    @property
    def base_shards(self) -> int:
        """Shards of the input itself; those after them are retries of its failed rows."""
        return len(self.shards) - sum(self.rounds)

    @property
    def rows(self) -> int:
        """Rows of the whole job."""
        return sum(self.shards[: self.base_shards])


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

    status: Literal["completed", "failed", "cancelled", "expired"]
    finished_at: float
    counts: Counts
    started_at: float | None = None
    reason: str | None = None  # why it failed as a whole
    errors: tuple[dict[str, str | int | None], ...] = ()  # {code, message, line, param}: what is wrong with its input
    outputs: dict[str, str] = {}  # of a batch: output and error -> file id
    finalizing_at: float | None = None  # of a batch: when nothing was left to run


class Ending(BaseModel):
    """How a batch ends, finalizing.json: decided once, so that its files come out the same whoever writes them again."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: float  # unix seconds
    status: Literal["completed", "cancelled", "expired"]
    shards: tuple[int, ...]  # those whose outputs count
    finalizing_at: float | None = None  # when nothing was left to run


class Attempt(BaseModel):
    """One try to tell a webhook of the end: the status it answered with, or why it could not be told."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: float  # unix seconds
    status: int | None = None
    error: str | None = None


class Delivery(BaseModel):
    """What became of telling a webhook of the end, webhook.json: replaced after every try."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    attempts: tuple[Attempt, ...] = ()
    delivered_at: float | None = None
    given_up_at: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing will be tried any more."""
        return self.delivered_at is not None or self.given_up_at is not None


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
    delivery: Delivery = field(default_factory=Delivery)  # of the end that stands, to the job's webhook

    @property
    def status(self) -> Status:
        """Derived from the marks and the committed shards, never stored beside them."""
        if self.marks.done is not None:
            return self.marks.done.status
        if self.marks.cancelled_at is not None:
            return "cancelled"
        if self.marks.paused_at is not None:
            return "paused"
        if not self.job.is_prepared:
            return "validating"
        return "in_progress" if self.committed or self.is_started else "queued"

    def is_to_finalize(self, now: float) -> bool:
        """Whether this is a batch of which nothing more is run: its files are to be written, of whatever is committed."""
        if self.job.batch is None or self.marks.done is not None:
            return False
        return self.marks.cancelled_at is not None or self.finalizing_at(now) is not None

    def finalizing_at(self, now: float) -> float | None:
        """When a batch had nothing left to run, unix seconds: all of it was committed, or its time was over."""
        if self.marks.done is not None:
            return self.marks.done.finalizing_at
        if self.job.is_prepared and len(self.committed) >= len(self.job.shards):
            return max((counts.finished_at for counts in self.committed.values()), default=self.job.created_at)
        expires_at = int((self.job.batch or {}).get("expires_at", 0))
        return expires_at if 0 < expires_at <= now else None

    @property
    def counts(self) -> Counts:
        """Final if the job is done, else of the committed shards; a row that waits for another try is no failure."""
        if self.marks.done is not None:
            return self.marks.done.counts
        counts = add_up(self.job, self.committed)
        retried = range(self.job.base_shards, len(self.job.shards))
        waiting = sum(self.job.shards[shard] for shard in retried if shard not in self.committed)
        return counts.model_copy(update={"failed": max(0, counts.failed - waiting)}) if waiting else counts

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
        """Rows committed lately over the time they took; over the whole run if the job is done.

        None before the first, and of a retried job that is done: between its runs is time in which nobody ran it.
        """
        if self.marks.done is not None:
            if self.job.rounds:
                return None
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


def add_up(job: Job, committed: Mapping[int, ShardCounts]) -> Counts:
    """The counts of a job of which these shards are committed. A retried row that ends well is no failure any more."""
    completed = failed = truncated = deduplicated = tokens = 0
    for shard, counts in committed.items():
        completed += counts.rows - counts.failed
        failed += counts.failed if shard < job.base_shards else counts.failed - counts.rows
        truncated += counts.truncated
        deduplicated += counts.deduplicated
        tokens += counts.tokens
    return Counts(
        total=job.rows, completed=completed, failed=failed, truncated=truncated, deduplicated=deduplicated, tokens=tokens
    )
