"""/v1/embeddings/jobs/ID/results and /errors: what became of a job's texts, as files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Literal

import orjson
from flask import Blueprint, Response, request
from pydantic import Field
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from shared.errors import Conflict, InvalidParameter, NotFound
from shared.jobs.job import JobView
from shared.jobs.reading import Reading, open_reading
from shared.jobs.wire import JOBS, UnixSeconds
from web import downloads, openai, results
from web.failures import RangeNotSatisfiable
from web.links import EXPIRE_S, Link
from web.native import read_job_id, read_number
from web.openapi import Header, Parameter, describe
from web.parts import caller, parts

blueprint = Blueprint("results", __name__, url_prefix=JOBS)


_ROWS = (
    Parameter("after", Annotated[int, Field(ge=-1)], "go on behind this row; -1, from the first, if not given"),
    Parameter("limit", Annotated[int, Field(ge=1)], "end after so many rows"),
)
_COMPLETE = (
    Header("x-umekomi-next-after", "what `after` goes on with", int, is_always=True),
    Header("x-umekomi-complete", "`true` if nothing will come behind it", Literal["true", "false"], is_always=True),
)
_OF_A_JOB = {"job_id": "as the submission gave it"}


class LinkObject(TypedDict):
    """Where a file can be fetched once, until when."""

    object: Literal["download.link"]
    url: str
    expires_at: UnixSeconds


@blueprint.get("/<job_id>/results")
@describe(
    returns=downloads.returns(
        *(form.media_type for form in results.FORMATS.values()),
        headers=(*_COMPLETE, Header("x-umekomi-rows", "how many rows it has", int)),
    ),
    fails=[NotFound, Conflict, RangeNotSatisfiable],
    query=[
        Parameter("format", {"type": "string", "enum": list(results.FORMATS)}, "else as the Accept header wants it, else jsonl"),
        Parameter("dtype", results.Dtype, "of the vectors, float32 if not given"),
        *_ROWS,
    ],
    headers=downloads.RANGES,
    path=_OF_A_JOB,
)
def get_results(job_id: str) -> Response:
    """What is committed, in order, while the job runs too; `after` goes on behind a row, `Range` (when it is done) at a byte."""
    return serve_results(job_id, request.args)


def serve_results(job_id: str, query: Mapping[str, str]) -> Response:
    """A job's results, as the query wants them."""
    accepted = [media_type.lower() for media_type, quality in request.accept_mimetypes if quality > 0]
    form = results.choose_format(query.get("format") or None, accepted)
    dtype = results.choose_dtype(query.get("dtype"))
    _, reading, tag = _open(job_id, query, form, dtype)
    kind = results.FORMATS[form]
    length_of, write_from = kind.length, kind.write_from
    file = downloads.File(
        media_type=kind.media_type,
        name=f"{reading.job.id}-results.{kind.extension}",
        tag=tag,
        write=lambda: kind.write(reading, dtype),
        length=None if length_of is None else lambda: length_of(reading, dtype),
        write_from=None if write_from is None else lambda position: write_from(reading, dtype, position),
    )
    response = _send(file, reading)
    response.headers["x-umekomi-rows"] = str(reading.rows)
    response.vary.add("Accept")
    return response


@blueprint.get("/<job_id>/errors")
@describe(
    returns=downloads.returns(results.FORMATS["jsonl"].media_type, headers=_COMPLETE),
    fails=[NotFound, RangeNotSatisfiable],
    query=_ROWS,
    headers=downloads.RANGES,
    path=_OF_A_JOB,
)
def get_errors(job_id: str) -> Response:
    """The error rows of what is committed, as JSONL."""
    return serve_errors(job_id, request.args)


def serve_errors(job_id: str, query: Mapping[str, str]) -> Response:
    """A job's error rows, as the query wants them."""
    view, reading, tag = _open(job_id, query, "errors")
    file = downloads.File(
        media_type=results.FORMATS["jsonl"].media_type,
        name=f"{reading.job.id}-errors.jsonl",
        tag=tag,
        write=lambda: results.write_lines(reading.errors(view.committed)),
    )
    return _send(file, reading)


@blueprint.post("/<job_id>/results/link")
@describe(
    returns=LinkObject,
    fails=[NotFound],
    query=[
        Parameter("format", {"type": "string", "enum": list(results.FORMATS)}, "jsonl if not given"),
        Parameter("dtype", results.Dtype, "of the vectors, float32 if not given"),
    ],
    path=_OF_A_JOB,
)
def make_results_link(job_id: str) -> Response:
    """An address where a browser gets the results once, within a minute, without the key."""
    form = results.choose_format(request.args.get("format") or None, ())
    return _link(job_id, "results", {"format": form, "dtype": results.choose_dtype(request.args.get("dtype"))})


@blueprint.post("/<job_id>/errors/link")
@describe(returns=LinkObject, fails=[NotFound], path=_OF_A_JOB)
def make_errors_link(job_id: str) -> Response:
    """An address where a browser gets the error rows once, within a minute, without the key."""
    return _link(job_id, "errors", {})


def _link(job_id: str, what: Literal["results", "errors"], query: Mapping[str, str]) -> Response:
    view = parts().jobs.view(read_job_id(job_id), caller().owner)
    token = parts().links.make(Link(owner=caller().owner, job_id=view.job.id, what=what, query=query))
    body: LinkObject = {
        "object": "download.link",
        "url": f"/v1/downloads/{token}",
        "expires_at": int(time.time()) + EXPIRE_S,
    }
    response = Response(orjson.dumps(body), content_type=openai.JSON)
    response.headers["Cache-Control"] = "no-store"
    return response


def _open(job_id: str, query: Mapping[str, str], *told: str) -> tuple[JobView, Reading, str | None]:
    """The job, what is asked of it, and what the answer's bytes follow from; None while they may change."""
    after = read_number("after", query.get("after") or "-1")
    if after < -1:
        raise InvalidParameter("after: must be the index of a row", param="after")
    limit = read_number("limit", query["limit"]) if query.get("limit") else None
    if limit is not None and limit < 1:
        raise InvalidParameter("limit: must be a number of rows", param="limit")
    view = parts().jobs.view(read_job_id(job_id), caller().owner)
    # From here on what storage says: Redis may not have heard of a retry.
    store = parts().jobs.store
    job = store.get(view.job.id)
    marks = store.marks(job.id)
    reading = open_reading(store, job, marks, after=after, limit=limit)
    if marks.done is None:
        return view, reading, None
    return view, reading, downloads.tag_of(job.id, job.rounds, marks.done.finished_at, after, limit, *told)


def _send(file: downloads.File, reading: Reading) -> Response:
    response = downloads.send(file, request, parts().lengths)
    response.headers["x-umekomi-next-after"] = str(reading.extent.next_after)
    response.headers["x-umekomi-complete"] = "true" if reading.extent.is_complete else "false"
    return response
