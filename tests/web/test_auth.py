"""Who calls."""

from __future__ import annotations

import pytest
from werkzeug.datastructures import Headers

from shared.errors import Unauthorized
from tests.web.conftest import MakeApp
from tests.web.support import error_of
from web.auth import Access


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer key"},
        {"Authorization": "bearer   key "},
        {"Authorization": "key"},
        {"x-api-key": "key"},
        {"Authorization": "Bearer wrong", "x-api-key": "key"},
    ],
)
def test_a_key_is_taken_from_either_header(headers: dict[str, str]) -> None:
    assert Access(["other", "key"]).caller(Headers(headers)) == Access(["key"]).caller(Headers({"x-api-key": "key"}))


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Bearer None", "Bearer kex", "Basic key", "Bearer ké"])
def test_another_key_is_refused(value: str) -> None:
    with pytest.raises(Unauthorized):
        Access(["key"]).caller(Headers({"Authorization": value}))


def test_owners_differ_by_key_and_never_show_it() -> None:
    access = Access(["alice-key", "bob-key"])
    alice, bob = (access.caller(Headers({"x-api-key": key})).owner for key in ("alice-key", "bob-key"))
    assert alice != bob
    assert "alice" not in alice
    assert alice.isalnum()


def test_without_keys_everybody_is_welcome() -> None:
    assert Access([]).caller(Headers({"Authorization": "Bearer None"})).owner == "public"


def test_every_route_but_health_wants_a_key(make_app: MakeApp) -> None:
    client = make_app(api_keys="key").test_client()
    for path in ("/v1/models", "/", "/version", "/v1/embeddings/jobs", "/nowhere"):
        response = client.get(path)
        assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert client.get("/v1/models", headers={"Authorization": "Bearer key"}).status_code == 200
    assert client.get("/healthz").status_code == 200
    assert client.options("/v1/embeddings").status_code == 200
