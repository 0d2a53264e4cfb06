"""GET /v1/downloads/TOKEN: what a link stands for; the token is the key, and is good once."""

from __future__ import annotations

from flask import Blueprint, Response, g, request
from werkzeug.datastructures import ImmutableMultiDict

from shared.errors import Conflict, NotFound
from web import downloads, results
from web.auth import Caller
from web.openapi import describe
from web.parts import parts
from web.routes.results import serve_errors, serve_results

blueprint = Blueprint("links", __name__)


@blueprint.get("/v1/downloads/<token>")
@describe(
    returns=downloads.returns(*(form.media_type for form in results.FORMATS.values())),
    fails=[NotFound, Conflict],
    path={"token": "as POST …/results/link gave it"},
)
def fetch(token: str) -> Response:
    """A job's file, without a key: the link was made with one, less than a minute ago, and is good once."""
    # A look without a body shall not use it up.
    if request.method == "HEAD":
        raise NotFound("a link is fetched with GET")
    link = parts().links.take(token)
    g.caller = Caller(link.owner, "embed")
    serve = serve_errors if link.what == "errors" else serve_results
    response = serve(link.job_id, ImmutableMultiDict(link.query))
    response.headers["Cache-Control"] = "no-store"
    return response
