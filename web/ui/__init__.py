"""The dashboard: a page, its scripts and styles, as files of this package; nothing of it comes from another server."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

from flask import Request, Response

_MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_NAME = re.compile(r"(?:[a-z0-9][a-z0-9_-]*/)*[a-z0-9][a-z0-9_-]*\.(html|css|js|svg)")
PAGE = "index.html"
# No script and no style but those of our own files: what a job's id or an error says can never become one.
POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page."""

    content: bytes
    media_type: str

    def respond(self, request: Request) -> Response:
        """The file, or 304 if the browser has it. It is asked for each time: after an upgrade no page is half old, half new."""
        response = Response(self.content, content_type=f"{self.media_type}; charset=utf-8")
        response.set_etag(hashlib.sha256(self.content).hexdigest()[:32])
        response.headers["Cache-Control"] = "no-cache"
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.make_conditional(request.environ)
        return response


def asset(name: str) -> Asset | None:
    """The file of this name below `static`; None if there is none."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        content = files("web.ui").joinpath("static", *name.split("/")).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return Asset(content, _MEDIA_TYPES[found[1]])


def wants_page(request: Request, *, is_off: bool) -> bool:
    """Whether this is a browser that goes to the page: a program that takes anything gets JSON, as on every other route."""
    if is_off or request.path != "/" or request.method not in ("GET", "HEAD"):
        return False
    accepted = request.accept_mimetypes
    return "text/html" in accepted.values() and accepted.best_match(["application/json", "text/html"]) == "text/html"
