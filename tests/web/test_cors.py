"""What a browser is told."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web.conftest import MakeApp
from tests.web.support import AnsweringWorker, embed
from web.cors import EXPOSED

ORIGIN = "https://app.example.com"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
}


def told(response: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers if name.lower().startswith("access-control-")}


def test_a_preflight_needs_no_key_and_what_follows_does(make_app: MakeApp, answering: AnsweringWorker) -> None:
    client = make_app(cors=True, api_keys="key").test_client()

    preflight = client.options("/v1/embeddings", headers=PREFLIGHT)
    assert preflight.status_code == 200
    assert told(preflight)["access-control-allow-origin"] == "*"
    assert "POST" in told(preflight)["access-control-allow-methods"]
    assert told(preflight)["access-control-allow-headers"] == "authorization, content-type, x-stainless-lang"
    assert int(told(preflight)["access-control-max-age"]) > 0

    refused = embed(client, {"input": "text"}, headers={"Origin": ORIGIN})
    assert refused.status_code == 401
    assert told(refused)["access-control-allow-origin"] == "*"  # a page shall see why
    answer = embed(client, {"input": "text"}, headers={"Origin": ORIGIN, "Authorization": "Bearer key"})
    assert answer.status_code == 200
    assert told(answer) == {"access-control-allow-origin": "*", "access-control-expose-headers": EXPOSED}
    for name in ("x-request-id", "retry-after-ms", "x-ratelimit-reset-tokens"):
        assert name in EXPOSED


@pytest.mark.parametrize(
    ("given", "is_told"),
    [
        (ORIGIN, True),
        ("https://APP.example.com", True),
        ("https://evil.example.com", False),
        ("https://app.example.com.evil.com", False),
        ("http://app.example.com", False),
        ("null", False),
        ("", False),
        ("\x00", False),
    ],
)
def test_only_the_origins_that_are_named_are_let_in(make_app: MakeApp, given: str, is_told: bool) -> None:
    client = make_app(cors=True, cors_allow_origins=f"https://other.example.com, {ORIGIN}").test_client()
    response = client.get("/v1/models", headers={"Origin": given})

    assert told(response).get("access-control-allow-origin") == (given if is_told else None)
    assert "Origin" in response.headers["Vary"]


def test_without_cors_nothing_is_told(make_app: MakeApp) -> None:
    assert told(make_app().test_client().options("/v1/embeddings", headers=PREFLIGHT)) == {}


def test_headers_that_are_none_are_not_sent_back(make_app: MakeApp) -> None:
    client = make_app(cors=True).test_client()
    odd = PREFLIGHT | {"Access-Control-Request-Headers": "a b, x-good, <script>, ,ü"}
    assert told(client.options("/v1/embeddings", headers=odd))["access-control-allow-headers"] == "x-good"
