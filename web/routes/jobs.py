"""/v1/embeddings/jobs: a corpus in bulk, from submission over status and results to deletion."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any

import orjson
from flask import Blueprint, Response, request
from pydantic import Field
from redis.exceptions import RedisError

from shared.errors import Conflict, InvalidParameter, ModelNotFound, NotFound
from shared.intake.records import Record, from_list
from shared.jobs.job import Job, JobView, Marks
from shared.jobs.wire import JOBS, JobObject, job_object
from shared.models import Models
from web import events, openai
from web.bodies import JSON_TYPES, Body, media_type
from web.multipart import MULTIPART
from web.native import (
    FIELDS_AS_TEXT,
    IDEMPOTENCY_KEY,
    JobBody,
    JobFields,
    JobForm,
    KnownStatus,
    check_names,
    read_idempotency_key,
    read_job_fields,
    read_job_id,
    read_job_query,
    read_limit,
    read_status,
)
from web.openapi import Header, Parameter, Returns, Takes, describe, parameters_of
from web.parts import caller, parts
from web.shard_map import ShardMap, shard_map
from web.sources import read_source
from web.submissions import Parse
from web.uploads import STREAMED, read_upload

ACCEPTED = (
    Header("Location", "where the job is", is_always=True),
    Header("idempotent-replayed", "`true` if the key was used before, and the job is that one"),
)
_OF_A_JOB = {"job_id": "as the submission gave it"}

blueprint = Blueprint("jobs", __name__, url_prefix=JOBS)

# A JSON list is read whole; a longer one is for NDJSON, which is read line by line.
MAX_JSON_BYTES = 64 * 2**20
MAX_PAGE, PAGE = 100, 20
NDJSON = "application/x-ndjson"


@blueprint.post("")
@describe(
    takes=[
        Takes(schema=JobBody, example={"input": [{"id": "a", "text": "a river", "metadata": {"page": 1}}, "a stone"]}),
        *(Takes(media_type=media_type) for media_type in STREAMED),
        Takes(schema=JobForm, media_type=MULTIPART),
    ],
    returns=Returns(schema=JobObject, status=202, description="It lies in storage and will be done.", headers=ACCEPTED),
    fails=[InvalidParameter, ModelNotFound, NotFound],
    query=parameters_of(JobFields, **FIELDS_AS_TEXT),
    headers=[IDEMPOTENCY_KEY],
)
def create() -> Response:
    """Accept a job: what is answered with 202 lies in storage and is done whatever dies."""
    if media_type(request) in JSON_TYPES:
        return submit_json(is_native=True)
    upload = read_upload(request, parts().settings)
    return _accept(None, upload.fields, upload.blocks, upload.parse)


# Where the input of a JSON body is, and what it may hold of OpenAI's that means nothing here.
_INPUTS = ("input", "input_file_id", "input_url")
_OF_OPENAI = ("encoding_format", "user")


def submit_json(engine: str | None = None, *, is_native: bool = False) -> Response:
    """A job out of one JSON object: parameters, and `input`, a list of texts or of {id, text, metadata}, or where it is."""
    max_bytes = min(MAX_JSON_BYTES, parts().settings.max_upload_bytes)
    too_large = f"a JSON body is read up to {max_bytes} bytes; send more as {NDJSON} to POST {JOBS}"
    raw = Body(request, max_bytes=max_bytes, too_large=too_large).read()
    given = openai.read_object(raw)
    if is_native:
        check_names(given, *_INPUTS, *_OF_OPENAI)
        # As with every other body; what this one says goes first.
        asked = read_job_query(request.args).model_dump(exclude_none=True)
        given = asked | {name: value for name, value in given.items() if value is not None}
    fields = read_job_fields(given)
    if any(given.get(name) is not None for name in _INPUTS[1:]):
        return _accept_source(engine, fields, given)
    values = _read_list(given)
    max_text_bytes = parts().settings.max_text_bytes
    return _accept(engine, fields, iter([raw]), lambda blocks: _after(blocks, from_list(values, max_text_bytes)))


def _accept_source(engine: str | None, fields: JobFields, given: dict[str, Any]) -> Response:
    if sum(given.get(name) is not None for name in _INPUTS) > 1:
        raise openai.wrong_input(f"give one of {', '.join(_INPUTS)}")
    model = parts().registry.get(engine or fields.model)
    key = read_idempotency_key(request.headers.get("Idempotency-Key"))
    source = read_source(given, fields, parts().settings, parts().files, caller().owner)
    return _accepted(*parts().submissions.accept_source(caller(), model, fields, key, source))


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


def _after(blocks: Iterator[bytes], records: Iterator[Record]) -> Iterator[Record]:
    """The records, once the blocks they were read from have passed by."""
    for _ in blocks:
        pass
    yield from records


def _accept(engine: str | None, fields: JobFields, blocks: Iterator[bytes], parse: Parse) -> Response:
    model = parts().registry.get(engine or fields.model)
    key = read_idempotency_key(request.headers.get("Idempotency-Key"))
    return _accepted(*parts().submissions.accept(caller(), model, fields, key, blocks, parse))


def _accepted(job: Job, was_there: bool) -> Response:
    view = parts().jobs.view(job.id, caller().owner) if was_there else JobView(job=job, marks=Marks())
    response = _json(_object(view), 202)
    response.headers["Location"] = f"{JOBS}/{job.id}"
    if was_there:
        response.headers["idempotent-replayed"] = "true"
    return response


@blueprint.get("")
@describe(
    returns=openai.Page[JobObject],
    query=[
        Parameter("limit", Annotated[int, Field(ge=1, le=MAX_PAGE)], f"entries of a page, {PAGE} if not given"),
        Parameter("after", str, "the id of the last job of the page before"),
        Parameter("status", KnownStatus, "only the jobs that stand so"),
    ],
    fails=[NotFound],
)
def list_jobs() -> Response:
    """The caller's jobs, newest first."""
    limit = read_limit(request.args.get("limit"), default=PAGE, most=MAX_PAGE)
    after = request.args.get("after") or None
    status = read_status(request.args.get("status"))
    views, has_more = parts().jobs.list(
        caller().owner, status=status, after=None if after is None else read_job_id(after), limit=limit
    )
    return _json(openai.list_object([_object(view) for view in views], has_more=has_more))


@blueprint.get("/<job_id>")
@describe(returns=JobObject, fails=[NotFound], path=_OF_A_JOB)
def get(job_id: str) -> Response:
    """The job as it stands."""
    return _json(_object(_view(job_id)))


@blueprint.get("/<job_id>/events")
@describe(
    returns=Returns(
        media_type=events.MEDIA_TYPE,
        description="Events `progress`, `done` and `deleted`, whose data is the job.",
        headers=[Header("Cache-Control", "no-store"), Header("X-Accel-Buffering", "no")],
    ),
    fails=[NotFound],
    path=_OF_A_JOB,
)
def get_events(job_id: str) -> Response:
    """The job whenever it changes, until it is finished, as server-sent events; what a client saw before makes no difference."""
    view = _view(job_id)
    owner, jobs = caller().owner, parts().jobs
    watch = parts().events.watch(view.job.id)
    here = parts()
    told = events.stream(
        watch,
        view,
        lambda: jobs.view(view.job.id, owner),
        here.settings.jobs_expire_after_s,
        lambda view: _waits_for(view, here.registry),
    )
    return events.answer(told, watch.close)


@blueprint.get("/<job_id>/shards")
@describe(returns=ShardMap, fails=[NotFound], path=_OF_A_JOB)
def get_shards(job_id: str) -> Response:
    """How each shard stands, as runs of equal neighbours; a job of a hundred thousand shards is a short answer."""
    view = _view(job_id)
    sent: set[int] = set()
    running: set[int] = set()
    stored: list[int] = []
    if view.marks.done is None:
        with suppress(RedisError):  # what is not committed waits then, as far as anybody knows
            index = parts().jobs.index
            sent = {shard for other, shard in index.in_flight(view.job.model) if other == view.job.id and shard >= 0}
            running = index.leased(view.job.id, sorted(sent))
    elif not view.committed and view.status != "completed":
        stored = parts().jobs.store.committed(view.job.id)
    return _json(shard_map(view, sent, running, stored))


@blueprint.post("/<job_id>/cancel")
@describe(returns=JobObject, fails=[Conflict, NotFound], path=_OF_A_JOB)
def cancel(job_id: str) -> Response:
    """Running batches end, the rest does not begin; what is committed can be read."""
    return _json(_object(parts().jobs.cancel(_view(job_id))))


@blueprint.post("/<job_id>/pause")
@describe(returns=JobObject, fails=[Conflict, NotFound], path=_OF_A_JOB)
def pause(job_id: str) -> Response:
    """Nothing new begins until it is resumed."""
    return _json(_object(parts().jobs.pause(_view(job_id))))


@blueprint.post("/<job_id>/resume")
@describe(returns=JobObject, fails=[Conflict, NotFound], path=_OF_A_JOB)
def resume(job_id: str) -> Response:
    """Go on where it was paused."""
    return _json(_object(parts().jobs.resume(_view(job_id))))


@blueprint.post("/<job_id>/retry")
@describe(returns=JobObject, fails=[Conflict, NotFound], path=_OF_A_JOB)
def retry(job_id: str) -> Response:
    """Run the failed rows of a completed job again; the others stay as they are."""
    return _json(_object(parts().jobs.retry(_view(job_id))))


@blueprint.delete("/<job_id>")
@describe(returns=openai.Deleted, fails=[NotFound], path=_OF_A_JOB)
def delete(job_id: str) -> Response:
    """Remove the job and all its files."""
    view = _view(job_id)
    parts().jobs.delete(view)
    parts().quotas.forget(caller())
    return _json({"id": view.job.id, "object": "embedding.job", "deleted": True})


def _view(job_id: str) -> JobView:
    return parts().jobs.view(read_job_id(job_id), caller().owner)


def _object(view: JobView) -> JobObject:
    here = parts()
    expire_after_s = here.settings.jobs_expire_after_s
    return job_object(view, time.time(), expire_after_s=expire_after_s, waits_for=_waits_for(view, here.registry))


def _waits_for(view: JobView, models: Models) -> str | None:
    """Why the job cannot go on, if its model left the configuration; it does not fail, for the model may come back."""
    if view.job.model in models.models:
        return None
    return f"the model {view.job.model!r} is not served any more; the job goes on when it is back in the configuration"


def _json(body: Mapping[str, object], status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, content_type=openai.JSON)
