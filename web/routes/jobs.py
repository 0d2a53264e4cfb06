"""/v1/embeddings/jobs: a corpus in bulk, from submission over status and results to deletion."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from flask import Blueprint, Response, request

from shared.errors import InvalidParameter
from shared.jobs.job import Job, JobView, Marks
from web import openai, results, uploads
from web.bodies import JSON_TYPES, Body, media_type
from web.failures import WrongMediaType
from web.native import (
    JOBS,
    JobFields,
    job_object,
    read_idempotency_key,
    read_job_fields,
    read_job_id,
    read_job_query,
    read_number,
    read_status,
)
from web.parts import caller, parts
from web.submissions import Parse

blueprint = Blueprint("jobs", __name__, url_prefix=JOBS)

# A JSON list is read whole; a longer one is for NDJSON, which is read line by line.
MAX_JSON_BYTES = 64 * 2**20
MAX_PAGE, PAGE = 100, 20
NDJSON = "application/x-ndjson"


@blueprint.post("")
def create() -> Response:
    """Accept a job: what is answered with 202 lies in storage and is done whatever dies."""
    kind = media_type(request)
    if kind in JSON_TYPES:
        return submit_json()
    if kind not in UPLOADS:
        known = ", ".join(sorted({openai.JSON, *UPLOADS}))
        raise WrongMediaType(f"Content-Type: must be one of {known}", param="Content-Type")
    return _submit_upload(UPLOADS[kind])


def submit_json(engine: str | None = None) -> Response:
    """A job out of one JSON object: parameters and `input`, a list of texts or of {id, text, metadata}."""
    max_bytes = min(MAX_JSON_BYTES, parts().settings.max_upload_bytes)
    too_large = f"a JSON body is read up to {max_bytes} bytes; send more as {NDJSON} to POST {JOBS}"
    raw = Body(request, max_bytes=max_bytes, too_large=too_large).read()
    given = openai.read_object(raw)
    fields = read_job_fields(given)
    values = _read_list(given)
    max_text_bytes = parts().settings.max_text_bytes
    return _accept(engine, fields, iter([raw]), lambda blocks: _after(blocks, uploads.from_list(values, max_text_bytes)))


def _read_list(given: dict[str, Any]) -> list[Any]:
    values = given.get("input")
    if values is None:
        raise openai.wrong_input("is required", code="missing_required_parameter")
    if type(values) is str:
        values = [values]
    if type(values) is not list:
        raise openai.wrong_input("must be a list of strings or of objects with a text", code="invalid_type")
    if not values:
        raise openai.wrong_input("must not be empty")
    if all(type(value) in (int, list) for value in values):
        raise openai.wrong_input("a job takes texts, not token ids", code="invalid_type")
    return values


def _after(blocks: Iterator[bytes], records: Iterator[uploads.Record]) -> Iterator[uploads.Record]:
    """The records, once the blocks they were read from have passed by."""
    for _ in blocks:
        pass
    yield from records


def _submit_upload(read: Callable[[Iterator[bytes], int], Iterator[uploads.Record]]) -> Response:
    """A job out of a streamed body; the parameters stand in the query string."""
    settings = parts().settings
    too_large = f"the body is over {settings.max_upload_bytes} bytes; submit it as several jobs"
    body = Body(request, max_bytes=settings.max_upload_bytes, too_large=too_large)
    fields = read_job_query(request.args)
    return _accept(None, fields, body.blocks(), lambda blocks: read(blocks, settings.max_text_bytes))


# Content type -> records of a streamed body; a new kind of upload is a reader in web/uploads.py and a line here.
UPLOADS: dict[str, Callable[[Iterator[bytes], int], Iterator[uploads.Record]]] = {
    NDJSON: uploads.from_ndjson,
    "application/ndjson": uploads.from_ndjson,
    "application/jsonl": uploads.from_ndjson,
    "application/x-jsonlines": uploads.from_ndjson,
}


def _accept(engine: str | None, fields: JobFields, blocks: Iterator[bytes], parse: Parse) -> Response:
    model = parts().registry.get(engine or fields.model)
    key = read_idempotency_key(request.headers.get("Idempotency-Key"))
    job, was_there = parts().submissions.accept(caller(), model, fields, key, blocks, parse)
    view = parts().jobs.view(job.id, caller().owner) if was_there else JobView(job=job, marks=Marks())
    response = _json(_object(view), 202)
    response.headers["Location"] = f"{JOBS}/{job.id}"
    if was_there:
        response.headers["idempotent-replayed"] = "true"
    return response


@blueprint.get("")
def list_jobs() -> Response:
    """The caller's jobs, newest first."""
    limit = read_number("limit", request.args.get("limit") or str(PAGE))
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidParameter(f"limit: must be 1 to {MAX_PAGE}", param="limit")
    after = request.args.get("after") or None
    status = read_status(request.args.get("status"))
    views, has_more = parts().jobs.list(
        caller().owner, status=status, after=None if after is None else read_job_id(after), limit=limit
    )
    return _json(openai.list_object([_object(view) for view in views], has_more=has_more))


@blueprint.get("/<job_id>")
def get(job_id: str) -> Response:
    """The job as it stands."""
    return _json(_object(_view(job_id)))


@blueprint.get("/<job_id>/results")
def get_results(job_id: str) -> Response:
    """What is committed, in order, while the job runs too; `after` goes on where an earlier answer ended."""
    kind = results.choose_format(request.args.get("format") or None, [entry[0].lower() for entry in request.accept_mimetypes])
    view, wanted = _extent(job_id)
    response = _download(view.job, wanted, kind, results.read_batches(parts().jobs.store, view.job.id, wanted), "results")
    response.headers["x-umekomi-rows"] = str(wanted.rows)
    return response


@blueprint.get("/<job_id>/errors")
def get_errors(job_id: str) -> Response:
    """The error rows of what is committed, as JSONL."""
    view, wanted = _extent(job_id)
    batches = results.read_errors(parts().jobs.store, view, wanted)
    return _download(view.job, wanted, results.FORMATS["jsonl"], batches, "errors")


@blueprint.post("/<job_id>/cancel")
def cancel(job_id: str) -> Response:
    """Running batches end, the rest does not begin; what is committed can be read."""
    return _json(_object(parts().jobs.cancel(_view(job_id))))


@blueprint.post("/<job_id>/pause")
def pause(job_id: str) -> Response:
    """Nothing new begins until it is resumed."""
    return _json(_object(parts().jobs.pause(_view(job_id))))


@blueprint.post("/<job_id>/resume")
def resume(job_id: str) -> Response:
    """Go on where it was paused."""
    return _json(_object(parts().jobs.resume(_view(job_id))))


@blueprint.delete("/<job_id>")
def delete(job_id: str) -> Response:
    """Remove the job and all its files."""
    view = _view(job_id)
    parts().jobs.delete(view)
    return _json({"id": view.job.id, "object": "embedding.job", "deleted": True})


def _view(job_id: str) -> JobView:
    return parts().jobs.view(read_job_id(job_id), caller().owner)


def _object(view: JobView) -> dict[str, Any]:
    return job_object(view, time.time())


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, content_type=openai.JSON)


def _extent(job_id: str) -> tuple[JobView, results.Extent]:
    after = read_number("after", request.args.get("after") or "-1")
    if after < -1:
        raise InvalidParameter("after: must be the index of a row", param="after")
    view = _view(job_id)
    return view, results.extent(view, parts().jobs.store.committed(view.job.id), after)


def _download(job: Job, wanted: results.Extent, kind: results.Format, batches: results.Batches, name: str) -> Response:
    response = Response(results.open_first(kind.write(batches)), content_type=kind.media_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{job.id}-{name}.{kind.extension}"'
    response.headers["x-umekomi-next-after"] = str(wanted.next_after)
    response.headers["x-umekomi-complete"] = "true" if wanted.is_complete else "false"
    response.headers["Cache-Control"] = "no-store"
    return response
