"""GET /metrics: who may read it, and how the installation stands in it."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from shared.presence import PresenceBoard
from tests.support.jobs import submit
from tests.support.valkey import free_port
from tests.web.conftest import MakeApp
from tests.web.support import presence, worker
from web.parts import Parts

Told = dict[tuple[str, str], float]


def told(client: FlaskClient) -> Told:
    """By name and the values of its labels, comma-separated."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name.removeprefix("umekomi_"), ",".join(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_workers_are_told_together(client: FlaskClient, redis: Redis) -> None:
    board = PresenceBoard(redis)
    loaded = presence(tokens_per_s=100.0, memory_bytes=50, loaded_at=1.0)
    board.announce(worker({"m": loaded, "strict": presence("failed")}, "w1"))
    board.announce(worker({"m": loaded, "strict": presence("available", memory_bytes=70)}, "w2"))

    found = told(client)

    assert found["workers", ""] == 2
    assert found["model_workers", "m,ready"] == 2
    assert found["model_workers", "strict,failed"] == found["model_workers", "strict,available"] == 1
    assert found["model_tokens_per_second", "m"] == 200
    assert (found["model_memory_bytes", "m"], found["model_memory_bytes", "strict"]) == (100, 0)


def test_the_lanes_tell_all_the_work_that_is_not_done(client: FlaskClient, parts: Parts, redis: Redis) -> None:
    submit(parts.jobs, [["a"], ["b"]], input_bytes=4000)
    PresenceBoard(redis).announce(worker({"m": presence()}))
    redis.xadd("umekomi:asks:{m}:short", {"ask": "x"})
    redis.set("umekomi:asks-bytes:{m}:short", 800)
    redis.set("umekomi:asks-bytes:{strict}:long", 800)  # left over: its stream ran empty

    found = told(client)

    assert (found["lane_waiting_tokens", "bulk"], found["lane_waiting_tokens", "interactive"]) == (1000, 200)
    assert (found["waiting_asks", "m"], found["waiting_asks", "strict"]) == (1, 0)
    assert (found["jobs", "queued"], found["jobs", "paused"], found["shards", "pending"]) == (1, 0, 2)
    assert found["oldest_job_seconds", ""] > 0


def test_without_redis_that_is_what_is_told(make_app: MakeApp) -> None:
    app = make_app(redis_url=f"redis://127.0.0.1:{free_port()}/0")

    told(app.test_client())  # the look that fails is counted after what was counted before it
    found = told(app.test_client())

    assert (found["redis_up", ""], found["storage_up", ""]) == (0, 1)
    assert ("workers", "") not in found  # nobody knows
    assert found["redis_errors_total", ""] > 0


def test_a_name_or_method_that_a_client_made_up_is_no_label(client: FlaskClient) -> None:
    client.open("/made-up", method="MADEUP").close()
    client.get("/v1/models/made-up").close()

    found = told(client)

    assert not [labels for _, labels in found if "made" in labels.lower()]
    assert found["requests_total", "other,none,404"] >= 1


def test_with_keys_it_is_for_admins_unless_the_operator_opens_it(make_app: MakeApp) -> None:
    closed, opened = (make_app(api_keys="k", metrics_open=is_open).test_client() for is_open in (False, True))

    assert closed.get("/metrics").status_code == 401
    assert closed.get("/metrics", headers={"Authorization": "Bearer k"}).status_code == 200
    assert opened.get("/metrics").status_code == 200
    assert opened.get("/v1/models").status_code == 401


@pytest.mark.parametrize("accept", ["", "text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0"])
def test_scrapers_get_the_format_that_they_accept(client: FlaskClient, accept: str) -> None:
    answer = client.get("/metrics", headers={"Accept": accept})

    assert answer.content_type.startswith("application/openmetrics-text" if "open" in accept else "text/plain; version=0.0.4")
    assert (answer.data.endswith(b"# EOF\n")) is ("open" in accept)
