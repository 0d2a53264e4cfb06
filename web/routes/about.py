"""GET / and GET /version: what this server is, and where to go on."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import orjson
from flask import Blueprint, Response

from shared.jobs.wire import JOBS
from web import openai

blueprint = Blueprint("about", __name__)

ROUTES = {
    "POST /v1/embeddings": "vectors of a few texts, as OpenAI's API has it",
    f"POST {JOBS}": "a corpus in bulk: JSON or NDJSON",
    f"GET {JOBS}": "your jobs",
    f"GET {JOBS}/ID": "status; /events, /results, /errors, and POST /cancel, /pause, /resume, /retry; DELETE",
    "POST /v1/files": "input of batches; GET, DELETE /v1/files/ID, and GET /v1/files/ID/content",
    "POST /v1/batches": "OpenAI's batches of embeddings requests; GET /v1/batches/ID, and POST /cancel",
    "GET /v1/models": "what is served",
    "GET /healthz, /readyz": "alive, ready",
    "GET /version": "the version",
}


def umekomi_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("umekomi")
    except PackageNotFoundError:
        return "unknown"  # run from a source tree that is not installed


@blueprint.get("/")
def index() -> Response:
    """The routes."""
    body = {"name": "umekomi", "version": umekomi_version(), "routes": ROUTES}
    return Response(orjson.dumps(body, option=orjson.OPT_INDENT_2), content_type=openai.JSON)


@blueprint.get("/version")
def get_version() -> Response:
    """The version."""
    return Response(orjson.dumps({"version": umekomi_version()}), content_type=openai.JSON)
