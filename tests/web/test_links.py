"""Links: a download without a key, once, within a minute, and only what the link was made for."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from shared import keys
from tests.web.conftest import MakeApp
from tests.web.support import error_of, finish, rows_of
from web.links import EXPIRE_S
from web.parts import EXTENSION

KEY = {"Authorization": "Bearer sesame"}
OTHER = {"Authorization": "Bearer other"}


@pytest.fixture
def client(make_app: MakeApp) -> FlaskClient:
    return make_app(api_keys="sesame,other").test_client()


@pytest.fixture
def job(client: FlaskClient) -> str:
    """A finished job of two texts, and one that failed."""
    body = '{"id": "a", "text": "x"}\n{"id": "b", "text": "y"}\n{bad'
    created = client.post("/v1/embeddings/jobs", data=body, content_type="application/x-ndjson", headers=KEY)
    job_id: str = created.get_json()["id"]
    finish(client.application.extensions[EXTENSION].jobs, job_id)
    return job_id


def link(client: FlaskClient, job: str, what: str = "results", **query: str) -> Any:
    return client.post(f"/v1/embeddings/jobs/{job}/{what}/link", query_string=query, headers=KEY)


def test_it_gives_the_file_once_without_a_key(client: FlaskClient, job: str) -> None:
    made = link(client, job, format="jsonl").get_json()
    fetched = client.get(made["url"])
    assert [row["id"] for row in rows_of(fetched)] == ["a", "b", None]
    assert "attachment" in fetched.headers["Content-Disposition"]
    assert fetched.headers["Cache-Control"] == "no-store"

    again = client.get(made["url"])
    assert again.status_code == 404
    assert "ask for another one" in error_of(again)["message"]


def test_a_look_without_a_body_does_not_use_it_up(client: FlaskClient, job: str) -> None:
    url = link(client, job).get_json()["url"]
    assert client.head(url).status_code == 404
    assert client.get(url).status_code == 200


def test_it_is_for_the_format_it_was_made_for_and_nothing_else(client: FlaskClient, job: str) -> None:
    fetched = client.get(link(client, job, format="npy").get_json()["url"] + "?format=jsonl")
    assert fetched.data.startswith(b"\x93NUMPY")
    (row,) = rows_of(client.get(link(client, job, "errors").get_json()["url"]))
    assert row["error"]["code"] == "invalid_json_line"


def test_nobody_makes_one_for_a_job_of_somebody_else_or_of_a_wrong_format(client: FlaskClient, job: str) -> None:
    assert client.post(f"/v1/embeddings/jobs/{job}/results/link", headers=OTHER).status_code == 404
    assert client.post(f"/v1/embeddings/jobs/{job}/results/link").status_code == 401
    wrong = link(client, job, format="docx")
    assert (wrong.status_code, error_of(wrong)["param"]) == (400, "format")


def test_redis_keeps_neither_the_token_nor_the_key_and_forgets_it_after_a_minute(
    client: FlaskClient, job: str, redis: Redis
) -> None:
    token = link(client, job).get_json()["url"].rpartition("/")[2]
    (name,) = redis.scan_iter(keys.link("*"))
    assert 0 < redis.ttl(name) <= EXPIRE_S
    assert token.encode() not in name + redis.get(name)
    assert b"sesame" not in redis.get(name)
    redis.delete(name)
    assert client.get(f"/v1/downloads/{token}").status_code == 404


def test_a_link_to_a_job_that_is_deleted_meanwhile_finds_nothing(client: FlaskClient, job: str) -> None:
    url = link(client, job).get_json()["url"]
    client.delete(f"/v1/embeddings/jobs/{job}", headers=KEY)
    assert client.get(url).status_code == 404
