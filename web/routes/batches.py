"""/v1/batches: OpenAI's batches of embeddings requests, each of them a job whose input and output are files."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Annotated

import orjson
from flask import Blueprint, Response, request
from pydantic import Field

from shared import metrics, traces
from shared.errors import Conflict, InvalidParameter, ModelNotFound, NotFound
from shared.files import StoredFile, content_name
from shared.intake import Options, UnreadableInput
from shared.intake.batch import first_model, parse
from shared.jobs.job import Counts, Done, Job, JobView, Source, new_batch_id
from shared.jobs.store import digest_key
from shared.logs import get_logger
from web import openai
from web.batches import FILE_PURPOSE, BatchFields, BatchObject, batch_object, read_batch, read_batch_id
from web.bodies import BLOCK_BYTES, Body, require_json
from web.native import IDEMPOTENCY_KEY, read_idempotency_key, read_limit
from web.openapi import Header, Parameter, Returns, Takes, describe
from web.parts import caller, parts

logger = get_logger(__name__)

blueprint = Blueprint("batches", __name__, url_prefix="/v1/batches")

MAX_BODY_BYTES = 2**20
MAX_PAGE, PAGE = 100, 20
MAX_MODEL_CHARACTERS = 200


_OF_A_BATCH = {"batch_id": "as its creation gave it"}


@blueprint.post("")
@describe(
    takes=Takes(
        schema=BatchFields,
        example={"input_file_id": "file-…", "endpoint": "/v1/embeddings", "completion_window": "24h"},
    ),
    returns=Returns(
        schema=BatchObject,
        headers=[Header("idempotent-replayed", "`true` if the key was used before, and the batch is that one")],
    ),
    fails=[InvalidParameter, NotFound],
    headers=[IDEMPOTENCY_KEY],
)
def create() -> Response:
    """Accept a batch: its file is read by a worker, which finds whatever is wrong with it."""
    require_json(request)
    body = Body(request, max_bytes=MAX_BODY_BYTES, too_large="the body is too large for a batch; the requests go in a file")
    fields = read_batch(body.read())
    digest = hashlib.sha256(orjson.dumps(fields.model_dump(), option=orjson.OPT_SORT_KEYS)).hexdigest()
    key = read_idempotency_key(request.headers.get("Idempotency-Key"))
    if key is not None:
        key = digest_key(f"batch {key}")  # the same key may make a job beside it
        earlier = parts().jobs.store.find_by_key(caller().owner, key)
        if earlier is not None:
            return _replayed(earlier, digest)
    job, end = _job(fields, digest, key)
    with parts().quotas.place_for_job(caller()):
        made = parts().jobs.submit(job, end)
    if made.id != job.id:
        return _replayed(made, digest)
    if end is None:  # else its model may be a name that nobody serves
        metrics.JOBS_SUBMITTED.inc(1, job.model)
    logger.info("batch submitted", job=job.id, model=job.model, file=fields.input_file_id, failed=end is not None)
    return _answer(_view(job.id))


def _job(fields: BatchFields, digest: str, key: str | None) -> tuple[Job, Done | None]:
    """The batch, and its end if nothing can come of it. Raises NotFound if there is no such file, InvalidParameter."""
    settings = parts().settings
    try:
        file = parts().files.get(fields.input_file_id, caller().owner)
    except NotFound:
        raise NotFound("input_file_id: no such file", param="input_file_id") from None
    if file.purpose != FILE_PURPOSE:
        raise InvalidParameter(f"input_file_id: the purpose of the file is not `{FILE_PURPOSE}`", param="input_file_id")
    now = time.time()
    named = _named_model(file)
    model, wrong, shard_tokens = named or "", None, None
    if file.bytes > settings.openai_batch_max_bytes:
        wrong = ("file_too_large", f"a batch's file has at most {settings.openai_batch_max_bytes} bytes", "input_file_id")
    elif named is not None:
        try:
            config = parts().registry.get(named)
            model, shard_tokens = config.name, parts().submissions.shard_tokens(config)
        except ModelNotFound as error:
            wrong = (error.code, error.message, "model")
    batch: dict[str, str | int] = {
        "endpoint": fields.endpoint,
        "completion_window": fields.completion_window,
        "input_file_id": file.id,
        "expires_at": int(now + settings.openai_batch_window_s),
        "model": named or "",
        "max_requests": settings.openai_batch_max_requests,
        "max_inputs": settings.openai_batch_max_inputs,
    }
    if fields.output_expires_after is not None:
        batch["output_expires_after_s"] = fields.output_expires_after.seconds
    job = Job(
        id=new_batch_id(),
        owner=caller().owner,
        model=model[:MAX_MODEL_CHARACTERS],
        created_at=now,
        shards=(),
        kind="batch",
        source=Source(
            url=content_name(file.id),
            format="batch",
            file_id=file.id,
            shard_tokens=shard_tokens,
            max_shard_rows=settings.max_shard_rows,
        ),
        is_prepared=False,
        metadata=fields.metadata,
        on_duplicate="keep",  # the rows of a request share its id
        batch=batch,
        idempotency_key=key,
        input_digest=digest,
        traceparent=traces.current().traceparent,
    )
    if named is None and wrong is None:
        return job, _unreadable(job, file)
    return job, None if wrong is None else _failed(now, [_error(*wrong)])


def _named_model(file: StoredFile) -> str | None:
    with closing(_blocks(file)) as blocks:
        return first_model(blocks)


def _blocks(file: StoredFile) -> Generator[bytes]:
    with parts().files.open(file.id) as source:
        while block := source.read(BLOCK_BYTES):
            yield block


def _unreadable(job: Job, file: StoredFile) -> Done:
    """What is wrong with a file that names no model near its beginning."""
    errors: Sequence[Mapping[str, str | int | None]] = [_error("model_not_found", "no request names a model", "body.model")]
    try:
        deque(parse(_blocks(file), Options(max_text_bytes=parts().settings.max_text_bytes, job=job)), maxlen=0)
    except UnreadableInput as wrong:
        errors = wrong.errors
    return _failed(job.created_at, errors)


def _failed(now: float, errors: Sequence[Mapping[str, str | int | None]]) -> Done:
    reason = str(errors[0]["message"])
    return Done(status="failed", finished_at=now, counts=Counts(), reason=reason, errors=tuple(map(dict, errors)))


def _error(code: str, message: str, param: str) -> dict[str, str | int | None]:
    return {"code": code, "message": message, "line": None, "param": param}


def _replayed(earlier: Job, digest: str) -> Response:
    if earlier.input_digest != digest:
        message = "Idempotency-Key: it was used for another batch"
        raise InvalidParameter(message, param="Idempotency-Key", code="idempotency_key_reused")
    response = _answer(_view(earlier.id))
    response.headers["idempotent-replayed"] = "true"
    return response


@blueprint.get("")
@describe(
    returns=openai.Page[BatchObject],
    query=[
        Parameter("limit", Annotated[int, Field(ge=1, le=MAX_PAGE)], f"entries of a page, {PAGE} if not given"),
        Parameter("after", str, "the id of the last batch of the page before"),
    ],
    fails=[NotFound],
)
def list_batches() -> Response:
    """The caller's batches, newest first."""
    limit = read_limit(request.args.get("limit"), default=PAGE, most=MAX_PAGE)
    after = request.args.get("after") or None
    views, has_more = parts().jobs.list(
        caller().owner, kind="batch", after=None if after is None else read_batch_id(after), limit=limit
    )
    now = time.time()
    return _json(openai.list_object([batch_object(view, now) for view in views], has_more=has_more))


@blueprint.get("/<batch_id>")
@describe(returns=BatchObject, fails=[NotFound], path=_OF_A_BATCH)
def get(batch_id: str) -> Response:
    """The batch as it stands."""
    return _answer(_view(read_batch_id(batch_id)))


@blueprint.post("/<batch_id>/cancel")
@describe(returns=BatchObject, fails=[Conflict, NotFound], path=_OF_A_BATCH)
def cancel(batch_id: str) -> Response:
    """Nothing new is run; what was becomes the output file. The body, which clients leave empty, is not looked at."""
    return _answer(parts().jobs.cancel(_view(read_batch_id(batch_id))))


def _view(batch_id: str) -> JobView:
    try:
        return parts().jobs.view(batch_id, caller().owner)
    except NotFound:
        raise NotFound("no such batch", param="batch_id") from None


def _answer(view: JobView) -> Response:
    return _json(batch_object(view, time.time()))


def _json(body: Mapping[str, object]) -> Response:
    return Response(orjson.dumps(body), content_type=openai.JSON)
