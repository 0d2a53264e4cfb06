"""The job object: a job as clients see it, in answers of the API, in event streams and in webhooks."""

from __future__ import annotations

from typing import Any

from shared.jobs.job import JobView

JOBS = "/v1/embeddings/jobs"


def job_object(view: JobView, now: float, *, expire_after_s: float) -> dict[str, Any]:
    """The job as clients see it; times in unix seconds. `expire_after_s` is the setting, 0 if jobs are kept for ever."""
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
        "counts": counts.model_dump(exclude={"tokens"}),
        "tokens": counts.tokens,
        "progress": round((counts.completed + counts.failed) / counts.total, 4) if counts.total else float(done is not None),
        "texts_per_second": None if rate is None else round(rate, 1),
        "eta_seconds": None if eta is None else round(eta, 1),
        "retries": len(job.rounds),
        "priority": job.priority,
        "dedupe": job.dedupe,
        "cache": job.cache,
        "parameters": job.parameters.model_dump(exclude_none=True),
        "reason": None if done is None else done.reason,
        # What is wrong with the input as a whole; the url tells of rows.
        "errors": {"url": f"{url}/errors", "data": [] if done is None else list(done.errors)},
        "results": {"url": f"{url}/results", "formats": ["jsonl", "parquet", "arrow", "npy", "npz"]},
        "webhook": _webhook(view),
        "metadata": job.metadata,
    }


def _webhook(view: JobView) -> dict[str, Any] | None:
    """Where the end of the job is told, and what became of that; None if nobody wants to be told."""
    if view.job.webhook_url is None:
        return None
    delivery = view.delivery
    return {
        "url": view.job.webhook_url,
        "delivered_at": _whole(delivery.delivered_at),
        "given_up_at": _whole(delivery.given_up_at),
        "attempts": [{**attempt.model_dump(exclude_none=True), "at": int(attempt.at)} for attempt in delivery.attempts],
    }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
