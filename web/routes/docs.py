"""GET /openapi.json and /docs: the API's own description, and a page to read and try it."""

from __future__ import annotations

import threading
from importlib.resources import files

import orjson
from flask import Blueprint, Response, current_app, request

from shared.build import umekomi_version
from shared.errors import NotFound
from web import openai
from web.hooks import is_counted, is_hidden, open_to_all
from web.openapi import Document, Returns, describe
from web.parts import parts

blueprint = Blueprint("docs", __name__)

# Swagger UI as PyPI has it: Apache License 2.0, told in the bundle's own head.
_PACKAGE = "flask_openapi3_swagger"
_ASSETS = {
    "swagger-ui.css": ("templates/swagger/css/swagger-ui.css", "text/css"),
    "swagger-ui-bundle.js": ("templates/swagger/js/swagger-ui-bundle.js", "text/javascript"),
}
# Every address is relative, so that a prefix of a reverse proxy makes no difference.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<base href="{base}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>umekomi</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="docs"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""
_START = b"""SwaggerUIBundle({
  url: "openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null, persistAuthorization: false,
});
"""
# Nothing from elsewhere; Swagger UI writes styles of its own into the page and has its pictures in the style sheet.
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"

_lock = threading.Lock()


@blueprint.get("/openapi.json")
@describe(returns={"type": "object"})
def get_document() -> Response:
    """This document: OpenAPI 3.1, made of the code's own schemas."""
    wants_keys = not parts().access.is_open
    here = current_app.extensions
    with _lock:
        made: dict[bool, bytes] = here.setdefault(__name__, {})
        if wants_keys not in made:
            settings = parts().settings
            document = Document(
                current_app,
                version=umekomi_version(),
                open_to_all=open_to_all(settings),
                is_counted=is_counted,
                is_hidden=lambda path: is_hidden(path, settings),
            )
            made[wants_keys] = orjson.dumps(document.make(wants_keys=wants_keys))
    return Response(made[wants_keys], content_type=openai.JSON)


@blueprint.get("/docs")
@describe(returns=Returns(media_type="text/html"))
def get_page() -> Response:
    """The same for people: Swagger UI, which comes from this server alone."""
    page = _PAGE.format(base="../" if request.path.endswith("/") else "./")
    response = Response(page, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = _POLICY
    return response


@blueprint.get("/docs/<name>")
@describe(returns=[Returns(media_type="text/css"), Returns(media_type="text/javascript")], fails=[NotFound])
def get_asset(name: str) -> Response:
    """A style sheet or script of that page."""
    if name == "start.js":
        return Response(_START, content_type="text/javascript; charset=utf-8")
    if name not in _ASSETS:
        raise NotFound("there is no such file")
    path, media_type = _ASSETS[name]
    content = files(_PACKAGE).joinpath(path).read_bytes()
    response = Response(content, content_type=f"{media_type}; charset=utf-8")
    response.headers["Cache-Control"] = "public, max-age=86400"
    return response
