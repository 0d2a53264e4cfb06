"""The job object: a job as clients see it, in answers of the API, in event streams and in webhooks."""

from __future__ import annotations

from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,  # pydantic's, before Python 3.12
    cast,
)

from pydantic import Field
from typing_extensions import TypedDict

from shared.jobs.job import JobView, Priority, Status

JOBS = "/v1/embeddings/jobs"

UnixSeconds = Annotated[int, Field(description="unix seconds")]


class JobCounts(TypedDict):
    """Rows by what became of them."""

    total: int
    completed: int
    failed: int
    truncated: int
    deduplicated: int


class JobErrors(TypedDict):
    """Where the error rows are, and what is wrong with the input as a whole: {code, message, line, param}."""

    url: str
    data: list[dict[str, str | int | None]]


class JobResults(TypedDict):
    """Where the vectors are."""

    url: str
    formats: list[str]


class WebhookAttempt(TypedDict):
    """One try to tell of the end: the status it was answered with, or why it could not be told."""

    at: UnixSeconds
    status: NotRequired[int]
    error: NotRequired[str]


class JobWebhook(TypedDict):
    """Where the end is told, and what became of that."""

    url: str
    delivered_at: UnixSeconds | None
    given_up_at: UnixSeconds | None
    attempts: list[WebhookAttempt]


class JobObject(TypedDict):
    """A job."""

    id: str
    object: Literal["embedding.job"]
    status: Status
    model: str
    created_at: UnixSeconds
    started_at: UnixSeconds | None
    finished_at: UnixSeconds | None
    expires_at: UnixSeconds | None
    counts: JobCounts
    tokens: int
    progress: Annotated[float, Field(ge=0, le=1)]
    texts_per_second: float | None
    eta_seconds: float | None
    retries: int
    priority: Priority
    dedupe: bool
    cache: bool
    parameters: dict[str, str | int]
    reason: str | None
    errors: JobErrors
    results: JobResults
    webhook: JobWebhook | None
    metadata: dict[str, str] | None


def job_object(view: JobView, now: float, *, expire_after_s: float, waits_for: str | None = None) -> JobObject:
    """The job as clients see it; times in unix seconds. `expire_after_s` is the setting, 0 if jobs are kept for ever.

    `waits_for`: why nothing of it can run now, for one that is not finished.
    """
    job, counts = view.job, view.counts
    url = f"{JOBS}/{job.id}"
    rate, eta = view.rows_per_second(now), view.eta_seconds(now)
    done = view.marks.done
    return {
        "id": job.id,
        "object": "embedding.job",
        "status": view.status,
        "model": job.model,
        "created_at": int(job.created_at),
        "started_at": _whole(view.started_at),
        "finished_at": _whole(view.finished_at),
        "expires_at": int(done.finished_at + expire_after_s) if done is not None and expire_after_s else None,
        "counts": cast(JobCounts, counts.model_dump(exclude={"tokens"})),
        "tokens": counts.tokens,
        "progress": round((counts.completed + counts.failed) / counts.total, 4) if counts.total else float(done is not None),
        "texts_per_second": None if rate is None else round(rate, 1),
        "eta_seconds": None if eta is None else round(eta, 1),
        "retries": len(job.rounds),
        "priority": job.priority,
        "dedupe": job.dedupe,
        "cache": job.cache,
        "parameters": job.parameters.model_dump(exclude_none=True),
        "reason": waits_for if done is None else done.reason,
        # What is wrong with the input as a whole; the url tells of rows.
        "errors": {"url": f"{url}/errors", "data": [] if done is None else list(done.errors)},
        "results": {"url": f"{url}/results", "formats": ["jsonl", "parquet", "arrow", "npy", "npz"]},
        "webhook": _webhook(view),
        "metadata": job.metadata,
    }


def _webhook(view: JobView) -> JobWebhook | None:
    """Where the end of the job is told, and what became of that; None if nobody wants to be told."""
    if view.job.webhook_url is None:
        return None
    delivery = view.delivery
    attempts: list[Any] = [{**attempt.model_dump(exclude_none=True), "at": int(attempt.at)} for attempt in delivery.attempts]
    return {
        "url": view.job.webhook_url,
        "delivered_at": _whole(delivery.delivered_at),
        "given_up_at": _whole(delivery.given_up_at),
        "attempts": attempts,
    }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
