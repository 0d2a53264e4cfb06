"""The OpenAPI document: whole, valid, and true."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Flask
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.web.conftest import MakeApp
from web.openapi.document import routes
from web.openapi.operations import operation_of


def document(client: FlaskClient) -> dict[str, Any]:
    response = client.get("/openapi.json")
    assert (response.status_code, response.mimetype) == (200, "application/json")
    found: dict[str, Any] = orjson.loads(response.data)
    return found


def test_the_document_is_valid_openapi(client: FlaskClient) -> None:
    OpenAPIV31SpecValidator(document(client)).validate()


def test_every_route_of_the_app_is_in_it_and_says_what_it_is(app: Flask, client: FlaskClient) -> None:
    paths = document(client)["paths"]
    for route in routes(app):
        described = paths[route.path][route.method.lower()]
        how = f"{route.method} {route.rule}: put @describe(...) under its route, see CONTRIBUTING.md"
        assert operation_of(route.view) is not None, how
        assert described["summary"], how
        assert any(status.startswith("2") for status in described["responses"]), how


def test_every_operation_has_an_id_of_its_own(client: FlaskClient) -> None:
    ids = [operation["operationId"] for path in document(client)["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


def test_headers_of_rates_are_told_where_requests_count(client: FlaskClient) -> None:
    paths = client.get("/openapi.json").json["paths"]
    counted = paths["/v1/embeddings"]["post"]["responses"]["200"]["headers"]
    assert {name for name in counted if name.startswith("x-ratelimit-")} == {
        f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset") for kind in ("requests", "tokens")
    }
    looked_at = paths["/v1/models"]["get"]["responses"]["200"]["headers"]
    assert not [name for name in looked_at if name.startswith("x-ratelimit-")]


def test_what_is_not_served_is_not_in_it(make_app: MakeApp) -> None:
    client = make_app(disable_webui=True, disable_metrics_endpoint=True).test_client()
    paths = client.get("/openapi.json").json["paths"]
    assert "/openapi.json" in paths
    assert not [path for path in paths if path.startswith(("/docs", "/ui", "/metrics"))]
