"""Places: who gets one, who is told to come back, and that each is given back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient

from shared.errors import ServerBusy
from shared.interactive import Answer, Ask
from tests.support.waiting import wait_until
from tests.web.conftest import MakeApp
from tests.web.support import AnsweringWorker, embed, error_of, hash_answer
from web import lingering
from web.admission import KINDS, SMALL_ANSWER_BYTES, SPARE_THREADS, Admission, kind_of, threads, transfers
from web.parts import EXTENSION, Parts

KINDS_OF_PLACES = ("asks", "uploads", "downloads", "pages", "others")


def parts_of(app: Flask) -> Parts:
    found: Parts = app.extensions[EXTENSION]
    return found


def places(admission: Admission, kind: str) -> int:
    found = 0
    with suppress(ServerBusy):
        while True:
            admission.enter(kind)  # type: ignore[arg-type]
            found += 1
    return found


@pytest.mark.parametrize("web_threads", [1, 3, 64])
def test_there_is_a_thread_for_every_place_and_every_event_stream(web_threads: int) -> None:
    admission = Admission(web_threads)
    given = {kind: places(admission, kind) for kind in KINDS_OF_PLACES}

    assert given["asks"] == web_threads
    assert threads(web_threads) == sum(given.values()) + 2 * transfers(web_threads) + SPARE_THREADS + lingering.THREADS


def test_what_is_named_exists(app: Flask) -> None:
    known = {rule.endpoint for rule in app.url_map.iter_rules()} | set(app.blueprints)
    assert set(KINDS) <= known


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [
        ("embeddings.create", "asks"),
        ("jobs.create", "uploads"),
        ("jobs.get", "others"),
        ("jobs.get_events", None),
        ("files.content", "downloads"),
        ("results.get_results", "downloads"),
        ("health.alive", None),
        ("links.fetch", "downloads"),
        ("docs.get_asset", "pages"),
        ("ui.get_asset", "pages"),
        (None, "others"),
    ],
)
def test_a_request_is_of_a_kind(endpoint: str | None, kind: str | None) -> None:
    assert kind_of(endpoint, endpoint and endpoint.partition(".")[0]) == kind


def test_a_question_too_many_is_told_so_at_once_and_answered_when_it_comes_back(
    make_app: MakeApp, answering: AnsweringWorker
) -> None:
    app, go_on = make_app(web_threads=1), threading.Event()

    def reply(ask: Ask) -> Answer:
        assert go_on.wait(20)
        return hash_answer(ask)  # type: ignore[return-value]

    answering.reply = reply
    first: list[Any] = []
    asking = threading.Thread(target=lambda: first.append(embed(app.test_client(), {"input": "text"})))
    asking.start()
    wait_until(lambda: parts_of(app).admission.taken("asks") == 1)

    refused = embed(app.test_client(), {"input": "text"})
    error = error_of(refused)
    assert (refused.status_code, error["code"], error["type"]) == (429, "server_busy", "rate_limit_error")
    assert int(refused.headers["retry-after-ms"]) == 250
    # Nobody else is in the way.
    for path in ("/healthz", "/v1/models", "/v1/embeddings/jobs"):
        assert app.test_client().get(path).status_code == 200

    go_on.set()
    asking.join()
    assert first[0].status_code == 200
    assert embed(app.test_client(), {"input": "text"}).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b'{"input": 5}', b'{"model": "no", "input": "x"}'])
def test_a_place_is_given_back_by_whatever_end(app: Flask, body: bytes) -> None:
    for _ in range(3):
        embed(app.test_client(), body)
    assert parts_of(app).admission.taken("asks") == 0


def test_a_download_keeps_its_place_until_it_was_sent_or_given_up(app: Flask) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"a"
        yield b"b"

    app.add_url_rule("/stream", view_func=lambda: Response(pieces()))
    taken, client = parts_of(app).admission.taken, app.test_client()

    whole = client.get("/stream")
    given_up = client.get("/stream")
    assert taken("others") == 2
    assert whole.data == b"ab"
    assert taken("others") == 1
    given_up.close()
    given_up.close()
    assert taken("others") == 0


def test_a_stream_that_breaks_gives_its_place_back(app: Flask) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"a"
        raise OSError("storage went away")

    app.add_url_rule("/stream", view_func=lambda: Response(pieces()))
    with pytest.raises(OSError, match="storage"):
        app.test_client().get("/stream").get_data()
    assert parts_of(app).admission.taken("others") == 0


@pytest.mark.parametrize("path", ["/docs/swagger-ui-bundle.js", "/openapi.json", "/metrics"])
def test_what_needs_no_key_needs_a_place_until_it_was_sent(make_app: MakeApp, path: str) -> None:
    app = make_app(api_keys="k", metrics_open=True)
    admission = parts_of(app).admission
    kind = "others" if path == "/metrics" else "pages"
    free = places(admission, kind)
    assert app.test_client().get(path).status_code == 429
    admission.leave(kind)  # type: ignore[arg-type]
    response = app.test_client().get(path)
    assert response.status_code == 200
    is_large = (response.content_length or 0) > SMALL_ANSWER_BYTES
    assert admission.taken(kind) == free - (not is_large)  # type: ignore[arg-type]
    response.close()
    assert admission.taken(kind) == free - 1  # type: ignore[arg-type]


def test_a_refused_key_takes_no_place(make_app: MakeApp) -> None:
    app = make_app(api_keys="key")
    client: FlaskClient = app.test_client()
    assert client.get("/v1/models").status_code == 401
    assert all(parts_of(app).admission.taken(kind) == 0 for kind in KINDS_OF_PLACES)  # type: ignore[arg-type]
