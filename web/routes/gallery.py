"""LocalAI's routes for models that are to be fetched: apply one, see how far it is, cancel it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from flask import Blueprint, Response, request

from shared.downloads import Download, DownloadBoard
from shared.errors import InvalidParameter, NotFound
from web import openai
from web.bodies import Body, require_json
from web.gallery import Applied, ApplyFields, ApplyJob, apply_job, read_wish
from web.openapi import describe
from web.parts import parts

blueprint = Blueprint("gallery", __name__)

MAX_BODY_BYTES = 256 * 2**10


@blueprint.post("/models/apply")
@describe(returns=Applied, takes=ApplyFields)
def apply() -> Response:
    """Fetch a model of the hub and serve it from then on; answered at once with the job, which a worker does."""
    require_json(request)
    too_large = f"the body is over {MAX_BODY_BYTES} bytes"
    wish = read_wish(Body(request, max_bytes=MAX_BODY_BYTES, too_large=too_large).read())
    _check_free(wish.name, wish.file)
    _check_file(wish.name, wish.file)
    if wish.entry.get("alias") is not None:
        _check_free(str(wish.entry["alias"]), wish.file)
    download = _board().add(wish)
    status = f"{request.host_url.rstrip('/')}/models/jobs/{download.wish.id}"
    return _json({"uuid": download.wish.id, "status": status})


@blueprint.get("/models/jobs")
@describe(returns=dict[str, ApplyJob])
def list_jobs() -> Response:
    """Every job by its id, the newest first; those that ended a week ago are forgotten."""
    return _json({download.wish.id: apply_job(download) for download in _board().all()})


@blueprint.get("/models/jobs/<uuid>")
@describe(returns=ApplyJob, fails=[NotFound], path={"uuid": "the job's id"})
def get_job(uuid: str) -> Response:
    """How far a job is; `processed` when it ended, with an `error` or with a model that is served."""
    return _json(apply_job(_found(_board().get(uuid))))


@blueprint.delete("/models/jobs/<uuid>")
@blueprint.post("/models/jobs/<uuid>/cancel")
@describe(returns=ApplyJob, fails=[NotFound], path={"uuid": "the job's id"})
def cancel_job(uuid: str) -> Response:
    """End a job; what it fetched is kept, and applying the model again goes on from there. One that ended stays as it is."""
    return _json(apply_job(_found(_board().cancel(uuid))))


@blueprint.get("/models/available")
@describe(returns=list[dict[str, Any]])
def list_available() -> Response:
    """Empty: there are no galleries here, every sentence-transformers model of the hub can be applied."""
    return Response(b"[]", content_type=openai.JSON)


def _found(download: Download | None) -> Download:
    if download is None:
        raise NotFound("no such job")
    if download.state.is_over and download.state.error is None:
        parts().registry.reload()  # what it wrote is served as soon as its end can be seen
    return download


def _check_free(name: str, file: str) -> None:
    """A name may be applied again, and is another entry's otherwise. Raises InvalidParameter."""
    taken = parts().registry.models.get(name)
    if taken is None:
        return
    line = parts().registry.lines.get(taken.name)
    if line is None or line[0].resolve() != _written(file):
        message = f"name: {name!r} is the name of another served model; give this one another with `name`"
        raise InvalidParameter(message, param="name", code="name_taken")


def _check_file(name: str, file: str) -> None:
    """What is written replaces a file that is there. Raises InvalidParameter if another model is in it."""
    written = _written(file)
    others = [other for other, (path, _) in parts().registry.lines.items() if other != name and path.resolve() == written]
    if others:
        message = f"name: {file} would be replaced, which has the model {others[0]!r}; give this one another name with `name`"
        raise InvalidParameter(message, param="name", code="name_taken")


def _written(file: str) -> Path:
    return (parts().settings.applied_models / file).resolve()


def _board() -> DownloadBoard:
    return DownloadBoard(parts().redis)


def _json(body: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(body), content_type=openai.JSON)
