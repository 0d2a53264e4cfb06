"""/v1/embeddings/jobs/ID/results and /errors: what became of a job's texts, as files."""

from __future__ import annotations

from flask import Blueprint, Response, request

from shared.errors import InvalidParameter
from shared.jobs.job import JobView
from shared.jobs.reading import Reading, open_reading
from shared.jobs.wire import JOBS
from web import downloads, results
from web.native import read_job_id, read_number
from web.parts import caller, parts

blueprint = Blueprint("results", __name__, url_prefix=JOBS)


@blueprint.get("/<job_id>/results")
def get_results(job_id: str) -> Response:
    """What is committed, in order, while the job runs too; `after` goes on behind a row, `Range` (when it is done) at a byte."""
    accepted = [media_type.lower() for media_type, quality in request.accept_mimetypes if quality > 0]
    form = results.choose_format(request.args.get("format") or None, accepted)
    dtype = results.choose_dtype(request.args.get("dtype"))
    _, reading, tag = _open(job_id, form, dtype)
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
def get_errors(job_id: str) -> Response:
    """The error rows of what is committed, as JSONL."""
    view, reading, tag = _open(job_id, "errors")
    file = downloads.File(
        media_type=results.FORMATS["jsonl"].media_type,
        name=f"{reading.job.id}-errors.jsonl",
        tag=tag,
        write=lambda: results.write_lines(reading.errors(view.committed)),
    )
    return _send(file, reading)


def _open(job_id: str, *told: str) -> tuple[JobView, Reading, str | None]:
    """The job, what is asked of it, and what the answer's bytes follow from; None while they may change."""
    after = read_number("after", request.args.get("after") or "-1")
    if after < -1:
        raise InvalidParameter("after: must be the index of a row", param="after")
    limit = read_number("limit", request.args["limit"]) if request.args.get("limit") else None
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
