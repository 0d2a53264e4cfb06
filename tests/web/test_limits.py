"""Rates: what a key may use in a minute, and what it is told of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from shared import keys
from shared.access import PUBLIC
from shared.connections import connect
from shared.errors import LaneFull
from tests.support.valkey import free_port
from tests.web.conftest import MakeApp
from tests.web.support import AnsweringWorker, embed, error_of
from web import limits
from web.auth import Allowance, Caller
from web.limits import Meter, duration

RATES = ("limit", "remaining", "reset")


def rates(response: Any, kind: str) -> list[str | None]:
    return [response.headers.get(f"x-ratelimit-{name}-{kind}") for name in RATES]


@pytest.fixture
def slow_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes back while a test runs."""
    monkeypatch.setattr(limits, "MINUTE_S", 1e6)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0121, "13ms"),
        (0.999, "999ms"),
        (1, "1s"),
        (8.64, "8.64s"),
        (59.999, "1m0s"),
        (90.5, "1m30.5s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (7325, "2h2m5s"),
    ],
)
def test_durations_are_written_as_openais(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_limits_nothing_is_told_and_redis_is_not_asked(
    client: FlaskClient, redis: Redis, answering: AnsweringWorker
) -> None:
    response = embed(client, {"input": "text"})

    assert response.status_code == 200
    assert not [name for name in response.headers if "ratelimit" in name[0].lower()]
    assert not list(redis.scan_iter("umekomi:requests:*")) + list(redis.scan_iter("umekomi:tokens:*"))


def test_a_key_that_used_its_requests_is_told_when_to_come_back(
    make_app: MakeApp, answering: AnsweringWorker, slow_minute: None
) -> None:
    client = make_app(limit_requests_per_minute=2).test_client()
    first, second, third = (embed(client, {"input": "text"}) for _ in range(3))

    assert (first.status_code, rates(first, "requests")[:2]) == (200, ["2", "1"])
    assert (second.status_code, rates(second, "requests")[:2]) == (200, ["2", "0"])
    error = error_of(third)
    assert (third.status_code, error["code"], error["type"]) == (429, "rate_limit_exceeded", "requests")
    assert rates(third, "requests")[:2] == ["2", "0"]
    assert int(third.headers["Retry-After"]) >= 1
    assert rates(third, "tokens") == [None, None, None]
    assert client.get("/v1/models").status_code == 200  # a look is no request of the minute


def test_whoever_waits_as_told_is_answered(
    make_app: MakeApp, answering: AnsweringWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MINUTE_S", 2.0)
    client = make_app(limit_requests_per_minute=10).test_client()
    while (response := embed(client, {"input": "text"})).status_code == 200:
        pass
    for _ in range(3):
        time.sleep(int(response.headers["retry-after-ms"]) / 1000)
        response = embed(client, {"input": "text"})
        assert response.status_code == 200
        while response.status_code == 200:
            response = embed(client, {"input": "text"})


def test_tokens_are_estimated_before_and_counted_after(make_app: MakeApp, answering: AnsweringWorker, slow_minute: None) -> None:
    client = make_app(limit_tokens_per_minute=10).test_client()
    # 8 bytes: thought to be 2 tokens; 5 it is.
    first = embed(client, {"input": "a b c dd"})
    assert (first.status_code, first.json["usage"]["total_tokens"]) == (200, 6)
    assert rates(first, "tokens")[:2] == ["10", "4"]

    refused = embed(client, {"input": "eight letters and more"})
    error = error_of(refused)
    assert (refused.status_code, error["code"], error["type"]) == (429, "rate_limit_exceeded", "tokens")
    assert rates(refused, "tokens")[:2] == ["10", "4"]
    assert embed(client, {"input": "x"}).status_code == 200


def test_what_is_more_than_a_minutes_tokens_is_not_to_be_sent_again(make_app: MakeApp, answering: AnsweringWorker) -> None:
    response = embed(make_app(limit_tokens_per_minute=10).test_client(), {"input": "x" * 100})

    assert (response.status_code, error_of(response)["param"]) == (413, "input")
    assert answering.asks == []


def test_an_ask_that_is_refused_costs_no_tokens(make_app: MakeApp, redis: Redis, answering: AnsweringWorker) -> None:
    answering.reply = lambda ask: LaneFull("full")
    response = embed(make_app(limit_tokens_per_minute=100).test_client(), {"input": "x" * 40})

    assert (response.status_code, rates(response, "tokens")) == (429, ["100", "100", "0ms"])


def test_token_ids_cost_what_they_are(make_app: MakeApp, answering: AnsweringWorker, slow_minute: None) -> None:
    response = embed(make_app(limit_tokens_per_minute=3).test_client(), {"model": "strict", "input": [1, 2, 3, 4]})
    assert response.status_code == 413


def test_callers_do_not_use_up_each_others_minute(redis: Redis) -> None:
    meter, allowance = Meter(redis), Allowance(requests_per_minute=1)
    for owner in ("alice", "bob"):
        assert meter.request(Caller(owner, "embed", allowance)) is not None


def test_what_was_estimated_too_low_is_owed_but_not_for_ever(redis: Redis) -> None:
    meter, caller = Meter(redis), Caller("alice", "embed", Allowance(tokens_per_minute=10))
    meter.tokens(caller, 1)
    rate = meter.settle(caller, 1_000_000)
    assert rate is not None
    assert (rate.remaining, rate.level) == (0, pytest.approx(-10, abs=0.1))
    assert rate.wait_s(10) < 121


def test_a_bucket_vanishes_when_it_is_full_again(redis: Redis) -> None:
    Meter(redis).request(Caller(PUBLIC, "embed", Allowance(requests_per_minute=60)))
    assert 0 < redis.pttl(keys.requests(PUBLIC)) <= 2000


def test_with_redis_away_rates_are_not_counted_and_nobody_waits_for_them() -> None:
    redis = connect(f"redis://127.0.0.1:{free_port()}/0")
    meter, caller = Meter(redis), Caller("alice", "embed", Allowance(requests_per_minute=1))

    assert [meter.request(caller) for _ in range(3)] == [None] * 3
    redis.close()


def test_routes_of_jobs_count_as_requests(make_app: MakeApp, slow_minute: None) -> None:
    client = make_app(limit_requests_per_minute=1).test_client()
    assert embed(client, {"input": ["text"]}, "/v1/embeddings/jobs").status_code == 202
    assert embed(client, {"input": ["text"]}, "/v1/embeddings/jobs").status_code == 429


def test_the_same_key_is_counted_over_all_processes(make_app: MakeApp, answering: AnsweringWorker, slow_minute: None) -> None:
    apps: list[Flask] = [make_app(limit_requests_per_minute=1) for _ in range(2)]
    assert [embed(app.test_client(), {"input": "text"}).status_code for app in apps] == [200, 429]
