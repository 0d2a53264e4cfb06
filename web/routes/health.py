"""Is the process alive, is everything there that should be; the only routes that never want a key."""

from __future__ import annotations

from typing import Literal

import orjson
from flask import Blueprint, Response
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from web import openai
from web.openapi import Returns, describe
from web.parts import parts
from web.readiness import ReadinessBody, readiness
from web.routes.models import live_workers

blueprint = Blueprint("health", __name__)


class Alive(TypedDict):
    """The process answers."""

    status: Literal["ok"]


@blueprint.get("/healthz")
@blueprint.get("/livez")
@describe(returns=Alive)
def alive() -> Response:
    """The process answers; nothing else is looked at."""
    return Response(b'{"status":"ok"}', content_type=openai.JSON)


@blueprint.get("/readyz")
@describe(
    returns=[
        Returns(schema=ReadinessBody, description="Requests can be answered."),
        Returns(schema=ReadinessBody, status=503, description="Something is missing: `missing` says what."),
    ]
)
def ready() -> Response:
    """200 if requests can be answered, else 503 and what is missing."""
    here = parts()
    found = readiness(here.registry, live_workers(), here.storage_check.problem(), here.registry_read_at)
    response = Response(orjson.dumps(found.body), 503 if found.missing else 200, content_type=openai.JSON)
    if found.missing:
        response.headers["Retry-After"] = "2"
        response.headers["retry-after-ms"] = "2000"
    return response
