"""webhook_url at submission, and what the job says of it."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from shared.jobs.job import Attempt, Delivery
from tests.web.conftest import MakeApp
from tests.web.support import embed, error_of, finish
from web.parts import EXTENSION

JOBS = "/v1/embeddings/jobs"
URL = "https://hooks.example/umekomi?token=1"


def test_a_job_takes_a_webhook_in_json_and_in_the_query_and_shows_what_became_of_it(make_app: MakeApp) -> None:
    app = make_app(webhook_secret="s")
    client, jobs = app.test_client(), app.extensions[EXTENSION].jobs
    by_json = embed(client, {"input": ["a"], "webhook_url": URL}, JOBS)
    by_query = client.post(JOBS, query_string={"webhook_url": URL}, data=b'{"text": "a"}', content_type="application/x-ndjson")
    untold = {"url": URL, "delivered_at": None, "given_up_at": None, "attempts": []}
    assert (by_json.status_code, by_query.status_code) == (202, 202)
    assert by_json.json["webhook"] == by_query.json["webhook"] == untold
    assert embed(client, {"input": ["a"]}, JOBS).json["webhook"] is None
    job_id = by_json.json["id"]
    finish(jobs, job_id)
    tries = (Attempt(at=1000.5, status=500), Attempt(at=1010.0, error="timeout"), Attempt(at=1020.0, status=204))
    jobs.store.put_delivery(jobs.store.get(job_id), Delivery(attempts=tries, delivered_at=1020.0))
    jobs.announce(job_id)
    assert client.get(f"{JOBS}/{job_id}").json["webhook"] == untold | {
        "delivered_at": 1020,
        "attempts": [{"at": 1000, "status": 500}, {"at": 1010, "error": "timeout"}, {"at": 1020, "status": 204}],
    }


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, URL),
        ({"webhook_secret": "s"}, "http://169.254.169.254/latest"),
        ({"webhook_secret": "s"}, "ftp://hooks.example"),
        ({"webhook_secret": "s"}, "https://hooks.example/" + "a" * 2048),
        ({"webhook_secret": "s"}, ""),
        ({"webhook_secret": "s"}, 5),
    ],
)
def test_a_webhook_that_cannot_be_is_refused_and_nothing_is_stored(make_app: MakeApp, settings: dict[str, Any], url: Any) -> None:
    app = make_app(**settings)
    response = embed(app.test_client(), {"input": ["a"], "webhook_url": url}, JOBS)
    assert (response.status_code, error_of(response)["param"]) == (400, "webhook_url")
    assert app.extensions[EXTENSION].jobs.store.ids() == []


def test_a_finished_job_says_when_it_expires_unless_it_never_does(make_app: MakeApp) -> None:
    for after_s, delta in ((60, 60), (0, None)):
        app = make_app(jobs_expire_after_s=after_s)
        client = app.test_client()
        accepted = orjson.loads(embed(client, {"input": ["a"]}, JOBS).data)
        assert accepted["expires_at"] is None
        finish(app.extensions[EXTENSION].jobs, accepted["id"])
        done = client.get(f"{JOBS}/{accepted['id']}").json
        assert done["expires_at"] == (None if delta is None else pytest.approx(time.time() + delta, abs=30))
