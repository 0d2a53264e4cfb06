"""What every route does alike: HEAD, OPTIONS, trailing slashes, wrong methods, ids, keys, and errors in one form."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.web.conftest import MakeApp
from tests.web.support import error_of
from web.failures import STATUS
from web.hooks import OPEN
from web.openapi.document import routes


def paths(app: Flask, *, method: str | None = None) -> list[str]:
    """Of every route, with an id that nothing has."""
    found = [route.path for route in routes(app) if method in (None, route.method)]
    return sorted({re.sub(r"\{[^}]+\}", "nothing", path) for path in found})


def refused(response: Any) -> str:
    """What a refusal says of itself; the routes under /api have Ollama's form, all others OpenAI's."""
    if response.request.path.startswith("/api/"):
        told = response.get_json()
        assert set(told) == {"error"}
        return str(told["error"])
    return str(error_of(response)["code"])


def test_options_tells_the_methods_of_every_route_without_a_key(make_app: MakeApp) -> None:
    app = make_app(api_keys="sesame")
    for path in paths(app):
        response = app.test_client().options(path)
        assert (response.status_code, response.data) in ((200, b""), (204, b"")), path
        assert "OPTIONS" in response.headers["Allow"]
        assert response.headers["x-request-id"]


def test_head_answers_as_get_does_without_the_body(app: Flask) -> None:
    client = app.test_client()
    for path in paths(app, method="GET"):
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.mimetype, head.data) == (got.status_code, got.mimetype, b""), path
        assert head.headers["x-request-id"]


@pytest.mark.parametrize("method", ["TRACE", "PATCH", "PROPFIND", "NONSENSE"])
def test_a_method_that_no_route_has_gets_405_and_the_ones_there_are(app: Flask, method: str) -> None:
    for path in paths(app):
        response = app.test_client().open(path, method=method)
        assert response.status_code == 405, path
        assert refused(response)
        assert "OPTIONS" in response.headers["Allow"]


def test_a_slash_at_the_end_makes_no_difference_and_no_redirect(app: Flask) -> None:
    client = app.test_client()
    for path in paths(app, method="GET"):
        one, other = client.get(path), client.get(f"{path.rstrip('/')}/")
        assert (other.status_code, other.mimetype) == (one.status_code, one.mimetype), path
        if one.status_code == 404:
            assert refused(other) == refused(one), path
    for path in paths(app, method="POST"):
        one, other = client.post(path, data=b"{"), client.post(f"{path}/", data=b"{")
        assert other.status_code == one.status_code, path
        if one.status_code >= 400:
            assert refused(other) == refused(one), path


def test_without_the_key_every_route_but_the_open_ones_says_401(make_app: MakeApp) -> None:
    app = make_app(api_keys="sesame")
    for route in routes(app):
        path = re.sub(r"\{[^}]+\}", "nothing", route.path)
        response = app.test_client().open(path, method=route.method)
        if route.blueprint in OPEN:
            assert response.status_code != 401, path
        else:
            assert response.status_code == 401, path
            assert refused(response)
            assert response.headers["WWW-Authenticate"] == "Bearer"


def test_nothing_is_ever_409_after_which_clients_send_a_request_again() -> None:
    assert 409 not in STATUS.values()


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/", "/v1/chat/completions", "/%00", "/v1/embeddings/x/y"])
def test_what_is_no_route_gets_404_in_openais_form(client: FlaskClient, path: str) -> None:
    for method in ("GET", "POST", "HEAD"):
        response = client.open(path, method=method)
        assert response.status_code == 404
        assert response.mimetype == "application/json"
    assert error_of(client.get(path))["code"] == "not_found"
