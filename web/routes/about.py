"""GET / and GET /version: what this server is, and where to go on. A browser that goes to / gets the dashboard."""

from __future__ import annotations

from typing import Literal

import orjson
from flask import Blueprint, Response, g, request
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from shared.build import umekomi_version
from shared.jobs.wire import JOBS
from web import openai
from web.openapi import Returns, describe
from web.ui import PAGE, asset

blueprint = Blueprint("about", __name__)

ROUTES = {
    "POST /v1/embeddings": "vectors of a few texts, as OpenAI's API has it",
    f"POST {JOBS}": "a corpus in bulk: JSON, NDJSON, CSV, text or Parquet",
    f"GET {JOBS}": "your jobs",
    f"GET {JOBS}/ID": "status; /events, /shards, /results, /errors, and POST /cancel, /pause, /resume, /retry; DELETE",
    "POST /v1/files": "input of batches; GET, DELETE /v1/files/ID, and GET /v1/files/ID/content",
    "POST /v1/batches": "OpenAI's batches of embeddings requests; GET /v1/batches/ID, and POST /cancel",
    "POST /v1/rerank": "documents in the order in which they answer a query",
    "POST /v1/tokenize, /v1/detokenize": "the model's own tokens, and how many they are",
    "POST /api/embed, /api/embeddings": "as Ollama has them; GET /api/tags, /api/ps, POST /api/show",
    "POST /embed": "as Text Embeddings Inference has it; GET /info, POST /decode",
    "GET /v1/models": "what is served",
    "POST /models/apply": "fetch a model of the hub and serve it; GET /models/jobs, GET and DELETE /models/jobs/ID",
    "GET /backend/monitor, /system": "memory and use of the models; POST /backend/load, /backend/shutdown",
    "GET /v1/overview": "models, workers, lanes, throughput, jobs; /events; a browser gets them as a page at /",
    "GET /healthz, /readyz": "alive, ready",
    "GET /metrics": "what Prometheus scrapes",
    "GET /version": "the version",
    "GET /openapi.json, /docs": "every route in full, for programs and for people",
}


class About(TypedDict):
    """What this server is, and its routes with a word to each."""

    name: Literal["umekomi"]
    version: str
    routes: dict[str, str]


class Version(TypedDict):
    """The version."""

    version: str


@blueprint.get("/")
@describe(returns=[Returns(schema=About), Returns(media_type="text/html")])
def index() -> Response:
    """The routes; for a browser that asks for HTML the dashboard, which needs no key itself."""
    page = asset(PAGE) if g.wants_page else None
    if page is not None:
        response = page.respond(request)
        response.vary.add("Accept")
        return response
    body = {"name": "umekomi", "version": umekomi_version(), "routes": ROUTES}
    response = Response(orjson.dumps(body, option=orjson.OPT_INDENT_2), content_type=openai.JSON)
    response.vary.add("Accept")
    return response


@blueprint.get("/version")
@describe(returns=Version)
def get_version() -> Response:
    """The version."""
    return Response(orjson.dumps({"version": umekomi_version()}), content_type=openai.JSON)
