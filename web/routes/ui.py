"""GET /ui/…: the files of the dashboard, whose page is GET / (web/routes/about.py). They hold no data, and want no key."""

from __future__ import annotations

from flask import Blueprint, Response, request

from shared.errors import NotFound
from web.openapi import Returns, describe
from web.ui import asset

blueprint = Blueprint("ui", __name__)


@blueprint.get("/ui/<path:name>")
@describe(
    returns=[Returns(media_type=media_type) for media_type in ("text/javascript", "text/css", "image/svg+xml", "text/html")],
    fails=[NotFound],
    path={"name": "as the page names it"},
)
def get_asset(name: str) -> Response:
    """A script or style sheet of the dashboard."""
    found = asset(name)
    if found is None:
        raise NotFound("there is no such file")
    return found.respond(request)
