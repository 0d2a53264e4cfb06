"""OpenAI's wire format of files and batches both ways. A batch is a job, seen through another window."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.errors import NotFound
from shared.files import StoredFile
from shared.jobs.job import JobView
from web import openai
from web.native import Metadata

FILE_PURPOSE = "batch"
# OpenAI's bounds of `expires_after`: an hour, 30 days.
MIN_EXPIRY_S, MAX_EXPIRY_S = 3600, 2_592_000

_BATCH_ID = re.compile(r"batch_[0-9a-f]{36}")

BatchStatus = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]


def file_object(file: StoredFile) -> dict[str, Any]:
    """OpenAI's file object; times in unix seconds."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


class ExpiresAfter(BaseModel):
    """When a batch's output files go."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    anchor: Literal["created_at"]
    seconds: int = Field(ge=MIN_EXPIRY_S, le=MAX_EXPIRY_S)


class BatchFields(BaseModel):
    """What a batch is made of; null means not given where it need not be, unknown fields are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    input_file_id: str
    endpoint: Literal["/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: Metadata = None
    output_expires_after: ExpiresAfter | None = None


def read_batch(body: bytes) -> BatchFields:
    """The fields of a creation. Raises BadRequest."""
    return openai.read_fields(BatchFields, openai.read_object(body))


def read_batch_id(text: str) -> str:
    """An id from outside, before it comes near storage. Raises NotFound unless it looks like one of ours."""
    if not _BATCH_ID.fullmatch(text):
        raise NotFound("no such batch", param="batch_id")
    return text


def batch_status(view: JobView, now: float) -> BatchStatus:
    """OpenAI's word for how the job stands."""
    if view.marks.done is not None:
        return view.marks.done.status
    if view.marks.cancelled_at is not None:
        return "cancelling"
    if view.finalizing_at(now) is not None:
        return "finalizing"
    return "in_progress" if view.job.is_prepared else "validating"


def batch_object(view: JobView, now: float) -> dict[str, Any]:
    """OpenAI's batch object; times in unix seconds."""
    job, done = view.job, view.marks.done
    status = batch_status(view, now)
    batch = job.batch or {}
    outputs = {} if done is None else done.outputs

    def ended_at(as_what: BatchStatus) -> int | None:
        return int(done.finished_at) if done is not None and status == as_what else None

    # A cancelled batch was never done with its requests, even if its files were then written.
    finalizing_at = None if status in ("failed", "cancelling", "cancelled") else view.finalizing_at(now)
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": batch.get("endpoint"),
        "model": job.model or None,
        "errors": _errors(view),
        "input_file_id": batch.get("input_file_id"),
        "completion_window": batch.get("completion_window"),
        "status": status,
        "output_file_id": outputs.get("output"),
        "error_file_id": outputs.get("error"),
        "created_at": int(job.created_at),
        "in_progress_at": _whole(job.prepared_at),
        "expires_at": batch.get("expires_at"),
        "finalizing_at": _whole(finalizing_at),
        "completed_at": ended_at("completed"),
        "failed_at": ended_at("failed"),
        "expired_at": ended_at("expired"),
        "cancelling_at": _whole(view.marks.cancelled_at) if status in ("cancelling", "cancelled") else None,
        "cancelled_at": ended_at("cancelled"),
        "request_counts": _request_counts(view),
        "usage": _usage(view.counts.tokens),
        "metadata": job.metadata,
    }


def _errors(view: JobView) -> dict[str, Any] | None:
    done = view.marks.done
    if done is None or done.status != "failed":
        return None
    names = ("code", "line", "message", "param")
    wrong = [{name: error.get(name) for name in names} for error in done.errors]
    if not wrong:
        wrong = [{"code": "invalid_input_file", "line": None, "message": done.reason, "param": "input_file_id"}]
    return {"object": "list", "data": wrong}


def _request_counts(view: JobView) -> dict[str, int]:
    """Lines of the file, however many rows each of them is."""
    done = view.marks.done
    if done is not None:
        return {"total": done.counts.total, "completed": done.counts.completed, "failed": done.counts.failed}
    ended = sum(counts.requests for counts in view.committed.values())
    failed = sum(counts.failed_requests for counts in view.committed.values())
    return {"total": view.job.requests, "completed": ended - failed, "failed": failed}


def _usage(tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens,
    }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
