"""Is the process alive, is everything there that should be; the only routes that never want a key."""

from __future__ import annotations

import orjson
from flask import Blueprint, Response

from web import openai
from web.parts import parts
from web.readiness import readiness
from web.routes.models import live_workers

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@blueprint.get("/livez")
def alive() -> Response:
    """The process answers; nothing else is looked at."""
    return Response(b'{"status":"ok"}', content_type=openai.JSON)


@blueprint.get("/readyz")
def ready() -> Response:
    """200 if requests can be answered, else 503 and what is missing."""
    here = parts()
    found = readiness(here.registry, live_workers(), here.storage_check.problem(), here.registry_read_at)
    response = Response(orjson.dumps(found.body), 503 if found.missing else 200, content_type=openai.JSON)
    if found.missing:
        response.headers["Retry-After"] = "2"
    return response
