"""GET /v1/overview: how the installation stands, once or as a stream of events."""

from __future__ import annotations

import orjson
from flask import Blueprint, Response

from shared.errors import Unavailable
from web import events, openai
from web.openapi import Header, Returns, describe
from web.overview import Overview, Snapshot
from web.parts import caller, parts

blueprint = Blueprint("overview", __name__)


@blueprint.get("/v1/overview")
@describe(returns=Overview)
def get() -> Response:
    """How everything stands now: models, workers, lanes, jobs; a key of the role `embed` sees the models and its own jobs."""
    here, who = parts(), caller()
    return Response(orjson.dumps(here.looker.look().of(who.owner, sees_all=who.role == "admin")), content_type=openai.JSON)


@blueprint.get("/v1/overview/events")
@describe(
    returns=Returns(
        media_type=events.MEDIA_TYPE,
        description="Events `overview`, whose data is what GET /v1/overview answers; one a second at most, when there is news.",
        headers=[Header("Cache-Control", "no-store"), Header("X-Accel-Buffering", "no")],
    ),
    fails=[Unavailable],
)
def get_events() -> Response:
    """The same whenever it changes, as server-sent events, until the server stops."""
    here, who = parts(), caller()
    here.watchers.enter()

    def say(snapshot: Snapshot) -> Overview:
        return snapshot.of(who.owner, sees_all=who.role == "admin")

    return events.answer(here.watchers.stream(say), here.watchers.leave)
