"""umekomi's own wire format of jobs: the parameters of a submission, and the job object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared.errors import InvalidParameter, NotFound
from shared.jobs.job import JobParameters, JobView, Priority, Status
from web import openai

JOBS = "/v1/embeddings/jobs"
MAX_IDEMPOTENCY_KEY_CHARACTERS = 255
_JOB_ID = re.compile(r"job_[0-9a-f]{36}")
_STATUSES: tuple[Status, ...] = ("validating", "queued", "in_progress", "paused", "completed", "failed", "cancelled")


def _few_pairs(metadata: dict[str, str] | None) -> dict[str, str] | None:
    """OpenAI's limits."""
    if metadata is not None:
        if len(metadata) > 16:
            raise ValueError("at most 16 pairs")
        if any(len(key) > 64 or len(value) > 512 for key, value in metadata.items()):
            raise ValueError("a key has at most 64 characters and a value at most 512")
    return metadata


class JobFields(BaseModel):
    """The parameters of a submission; null means not given, unknown ones are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    model: str | None = None
    dimensions: int | None = Field(None, ge=1, le=2**31 - 1)
    input_type: Literal["query", "document"] | None = None
    prompt_name: str | None = Field(None, min_length=1, max_length=200)
    truncate: Literal["end", "error"] | None = None
    priority: Priority | None = None
    metadata: Annotated[dict[str, str] | None, AfterValidator(_few_pairs)] = None

    @property
    def parameters(self) -> JobParameters:
        """Those that say how the texts are embedded."""
        return JobParameters.model_validate(self.model_dump(include=set(JobParameters.model_fields)))


def read_job_fields(given: Mapping[str, Any]) -> JobFields:
    """The parameters in a JSON body. Raises InvalidParameter."""
    fields = openai.read_fields(JobFields, given)
    openai.check_prompt(fields.input_type, fields.prompt_name)
    return fields


def read_job_query(given: Mapping[str, str]) -> JobFields:
    """The parameters in a query string: numbers as digits, metadata as a JSON object. Raises InvalidParameter."""
    values: dict[str, Any] = {name: value for name, value in given.items() if value != ""}
    if "dimensions" in values:
        values["dimensions"] = read_number("dimensions", values["dimensions"])
    if "metadata" in values:
        try:
            values["metadata"] = orjson.loads(values["metadata"])
        except orjson.JSONDecodeError:
            raise InvalidParameter("metadata: must be a JSON object of strings", param="metadata") from None
    return read_job_fields(values)


def read_number(param: str, text: str) -> int:
    """A whole number in a query string. Raises InvalidParameter."""
    if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 18:
        raise InvalidParameter(f"{param}: must be a whole number", param=param, code="invalid_type")
    return int(text)


def read_status(text: str | None) -> Status | None:
    """A status in a query string. Raises InvalidParameter."""
    if not text:
        return None
    found = next((status for status in _STATUSES if status == text), None)
    if found is None:
        raise InvalidParameter(f"status: must be one of {', '.join(_STATUSES)}", param="status")
    return found


def read_job_id(text: str) -> str:
    """An id from outside, before it comes near storage. Raises NotFound unless it looks like one of ours."""
    if not _JOB_ID.fullmatch(text):
        raise NotFound("no such job")
    return text


def read_idempotency_key(text: str | None) -> str | None:
    """The Idempotency-Key header. Raises InvalidParameter."""
    if text is None:
        return None
    if not 1 <= len(text) <= MAX_IDEMPOTENCY_KEY_CHARACTERS:
        raise InvalidParameter(f"Idempotency-Key: 1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} characters", param="Idempotency-Key")
    return text


def job_object(view: JobView, now: float) -> dict[str, Any]:
    """The job as clients see it; times in unix seconds."""
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
        "counts": counts.model_dump(exclude={"tokens"}),
        "tokens": counts.tokens,
        "progress": round((counts.completed + counts.failed) / counts.total, 4) if counts.total else 1.0,
        "texts_per_second": None if rate is None else round(rate, 1),
        "eta_seconds": None if eta is None else round(eta, 1),
        "priority": job.priority,
        "parameters": job.parameters.model_dump(exclude_none=True),
        "reason": None if done is None else done.reason,
        "errors": {"url": f"{url}/errors"},
        "results": {"url": f"{url}/results", "formats": ["jsonl", "parquet"]},
        "metadata": job.metadata,
    }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
