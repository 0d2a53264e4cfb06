"""OpenAI's wire format of files and batches both ways. A batch is a job, seen through another window."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from shared.errors import NotFound
from shared.files import StoredFile
from shared.jobs.job import JobView
from shared.jobs.wire import UnixSeconds
from web import openai
from web.native import Metadata

FILE_PURPOSE = "batch"
# OpenAI's bounds of `expires_after`: an hour, 30 days.
MIN_EXPIRY_S, MAX_EXPIRY_S = 3600, 2_592_000

_BATCH_ID = re.compile(r"batch_[0-9a-f]{36}")

BatchStatus = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]


_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"


class FileForm(BaseModel):
    """The form of an upload; `expires_after` whole or not at all."""

    model_config = ConfigDict(json_schema_extra={"dependentRequired": {_ANCHOR: [_SECONDS], _SECONDS: [_ANCHOR]}})

    purpose: Literal["batch"]
    file: Annotated[bytes, WithJsonSchema({"type": "string", "format": "binary"})]
    anchor: Literal["created_at"] = Field("created_at", alias=_ANCHOR)
    seconds: int = Field(MAX_EXPIRY_S, ge=MIN_EXPIRY_S, le=MAX_EXPIRY_S, alias=_SECONDS)


class FileObject(TypedDict):
    """A file, what batches read and write."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: UnixSeconds
    expires_at: UnixSeconds | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class BatchError(TypedDict):
    """Something that is wrong with a batch's input."""

    code: str
    line: int | None
    message: str
    param: str | None


class BatchErrors(TypedDict):
    """All that is wrong with a batch's input."""

    object: Literal["list"]
    data: list[BatchError]


class BatchCounts(TypedDict):
    """Requests by what became of them."""

    total: int
    completed: int
    failed: int


class InputTokenDetails(TypedDict):
    """Always 0 here."""

    cached_tokens: int


class OutputTokenDetails(TypedDict):
    """Always 0 here."""

    reasoning_tokens: int


class BatchUsage(TypedDict):
    """Tokens of all requests."""

    input_tokens: int
    input_tokens_details: InputTokenDetails
    output_tokens: int
    output_tokens_details: OutputTokenDetails
    total_tokens: int


class BatchObject(TypedDict):
    """A batch of embeddings requests."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: UnixSeconds
    in_progress_at: UnixSeconds | None
    expires_at: UnixSeconds | None
    finalizing_at: UnixSeconds | None
    completed_at: UnixSeconds | None
    failed_at: UnixSeconds | None
    expired_at: UnixSeconds | None
    cancelling_at: UnixSeconds | None
    cancelled_at: UnixSeconds | None
    request_counts: BatchCounts
    usage: BatchUsage
    metadata: dict[str, str] | None


def file_object(file: StoredFile) -> FileObject:
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


def batch_object(view: JobView, now: float) -> BatchObject:
    """OpenAI's batch object; times in unix seconds."""
    job, done = view.job, view.marks.done
    status = batch_status(view, now)
    batch: dict[str, Any] = dict(job.batch or {})
    outputs = {} if done is None else done.outputs

    def ended_at(as_what: BatchStatus) -> int | None:
        return int(done.finished_at) if done is not None and status == as_what else None

    # A cancelled batch was never done with its requests, even if its files were then written.
    finalizing_at = None if status in ("failed", "cancelling", "cancelled") else view.finalizing_at(now)
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": batch["endpoint"],
        "model": job.model or None,
        "errors": _errors(view),
        "input_file_id": batch["input_file_id"],
        "completion_window": batch["completion_window"],
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


def _errors(view: JobView) -> BatchErrors | None:
    done = view.marks.done
    if done is None or done.status != "failed":
        return None
    names = ("code", "line", "message", "param")
    wrong: list[Any] = [{name: error.get(name) for name in names} for error in done.errors]
    if not wrong:
        wrong = [{"code": "invalid_input_file", "line": None, "message": done.reason, "param": "input_file_id"}]
    return {"object": "list", "data": wrong}


def _request_counts(view: JobView) -> BatchCounts:
    """Lines of the file, however many rows each of them is."""
    done = view.marks.done
    if done is not None:
        return {"total": done.counts.total, "completed": done.counts.completed, "failed": done.counts.failed}
    ended = sum(counts.requests for counts in view.committed.values())
    failed = sum(counts.failed_requests for counts in view.committed.values())
    return {"total": view.job.requests, "completed": ended - failed, "failed": failed}


def _usage(tokens: int) -> BatchUsage:
    return {
        "input_tokens": tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens,
    }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
