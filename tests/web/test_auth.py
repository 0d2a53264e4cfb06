"""Who calls."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Blueprint
from werkzeug.datastructures import Headers

from shared.access import KeyFile, KnownKeys, Limits
from shared.errors import Unauthorized
from shared.settings import Settings
from tests.support.waiting import wait_until
from tests.web.conftest import MakeApp
from tests.web.support import error_of
from web.auth import Access, Allowance
from web.hooks import FOR_EMBED


def access(*keys: str) -> Access:
    return Access(KnownKeys(keys))


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
    assert access("other", "key").caller(Headers(headers)) == access("key").caller(Headers({"x-api-key": "key"}))


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Bearer None", "Bearer kex", "Basic key", "Bearer ké"])
def test_another_key_is_refused(value: str) -> None:
    with pytest.raises(Unauthorized):
        access("key").caller(Headers({"Authorization": value}))


def test_owners_differ_by_key_and_never_show_it() -> None:
    both = access("alice-key", "bob-key")
    alice, bob = (both.caller(Headers({"x-api-key": key})).owner for key in ("alice-key", "bob-key"))
    assert alice != bob
    assert "alice" not in alice
    assert alice.isalnum()


def test_without_keys_everybody_is_welcome() -> None:
    assert access().caller(Headers({"Authorization": "Bearer None"})).owner == "public"


def test_every_route_but_health_wants_a_key(make_app: MakeApp) -> None:
    client = make_app(api_keys="key").test_client()
    for path in ("/v1/models", "/", "/version", "/v1/embeddings/jobs", "/nowhere"):
        response = client.get(path)
        assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert client.get("/v1/models", headers={"Authorization": "Bearer key"}).status_code == 200
    assert client.get("/healthz").status_code == 200
    assert client.options("/v1/embeddings").status_code == 200


def test_a_key_of_the_role_embed_reaches_no_admin_route(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app(api_keys_file=tmp_path / "keys.json", api_keys="root")
    secret = Blueprint("operators", __name__)
    secret.add_url_rule("/operators", view_func=lambda: "state")
    app.register_blueprint(secret)
    _, key = KeyFile(tmp_path / "keys.json").create("alice", "embed", Limits())
    client = app.test_client()
    wait_until(lambda: client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200)

    refused = client.get("/operators", headers={"x-api-key": key})

    error = error_of(refused)
    assert (refused.status_code, error["code"], error["type"]) == (403, "insufficient_permissions", "invalid_request_error")
    assert error["param"] is None
    assert client.get("/operators", headers={"x-api-key": "root"}).status_code == 200
    # A key tells which routes there are, none tells nothing.
    assert client.get("/nowhere", headers={"x-api-key": key}).status_code == 404


def test_every_blueprint_is_for_everybody_or_for_a_role_that_exists(make_app: MakeApp) -> None:
    for name in ("embeddings", "jobs", "results", "files", "batches", "models", "about"):
        assert name in make_app().blueprints
        assert name in FOR_EMBED
    assert not {"backend", "gallery", "metrics", "system"} & FOR_EMBED


def test_an_entrys_own_limits_win_over_the_settings(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    _, own = file.create("own", "embed", Limits(requests_per_minute=0, jobs=7))
    _, plain = file.create("plain", "embed", Limits())
    settings = Settings(api_keys_file=file.file, limit_requests_per_minute=5, limit_tokens_per_minute=6)

    found = Access.of(settings)

    assert found.caller(Headers({"x-api-key": own})).allowance == Allowance(tokens_per_minute=6, jobs=7)
    assert found.caller(Headers({"x-api-key": plain})).allowance == Allowance(requests_per_minute=5, tokens_per_minute=6)
