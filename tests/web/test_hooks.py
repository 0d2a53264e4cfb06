"""The hook around all routes and the last line of defence."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator

import pytest
import structlog
from flask import Flask
from flask.testing import FlaskClient

from shared import logs
from shared.settings import Settings
from tests.web.conftest import MakeApp
from tests.web.support import AnsweringWorker, embed, error_of
from web.hooks import request_id


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """What the process logs, set up as it is in production."""
    root = logging.getLogger()
    before, level, ours = root.handlers[:], root.level, structlog.get_config()
    lines = io.StringIO()
    monkeypatch.setattr(sys, "stderr", lines)
    logs.set_up(Settings(log_format="json"), "web")
    yield lines.getvalue
    root.handlers[:] = before
    root.setLevel(level)
    structlog.configure(**ours)


def test_a_request_is_logged_without_text_key_or_query(
    make_app: MakeApp, answering: AnsweringWorker, logged: Callable[[], str]
) -> None:
    client = make_app(api_keys="sesame").test_client()
    response = embed(
        client, {"input": "a private text"}, "/v1/embeddings?q=hidden", headers={"x-api-key": "sesame", "X-Request-Id": "r-1"}
    )
    assert response.status_code == 200
    response.close()
    text = logged()
    line = next(json.loads(line) for line in text.splitlines() if "request answered" in line)
    assert (line["status"], line["route"], line["request"], line["method"]) == (200, "/v1/embeddings", "r-1", "POST")
    assert line["ms"] >= 0
    for secret in ("a private text", "sesame", "hidden"):
        assert secret not in text


def test_a_failure_of_ours_is_a_500_that_says_nothing_of_the_text(
    app: Flask, client: FlaskClient, logged: Callable[[], str]
) -> None:
    text_of_a_client = " ".join(["a", "private", "text"])

    def fail() -> str:
        raise ValueError(text_of_a_client)

    app.add_url_rule("/fails", view_func=fail)
    response = client.get("/fails")
    assert (response.status_code, error_of(response)["type"]) == (500, "server_error")
    assert b"private" not in response.data
    text = logged()
    assert "request failed unexpectedly" in text
    assert "a private text" not in text


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "a\nb", "ü"])
def test_an_id_that_cannot_stand_in_a_header_is_replaced(given: str | None) -> None:
    assert request_id(given).startswith("req_")
