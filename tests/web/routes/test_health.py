"""Health, readiness, models and the rest that only reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from redis import Redis

from shared.models import ModelRegistry, Problem
from shared.presence import PresenceBoard
from tests.web.conftest import MakeApp
from tests.web.support import error_of, model, presence, registry, worker


def test_the_process_is_alive_whatever_is_missing(make_app: MakeApp) -> None:
    client = make_app(redis_url="redis://127.0.0.1:1/0", api_keys="k").test_client()
    for path in ("/healthz", "/livez", "/healthz/"):
        assert client.get(path).json == {"status": "ok"}
        assert client.head(path).status_code == 200


def test_ready_when_every_model_has_a_worker_that_loaded_it(make_app: MakeApp, redis: Redis) -> None:
    client = make_app(models=registry(model("m"), model("lazy", preload=False)), api_keys="k").test_client()
    PresenceBoard(redis).announce(worker({"m": presence(), "lazy": presence("available")}))
    response = client.get("/readyz")
    assert (response.status_code, response.json["status"], response.json["missing"]) == (200, "ready", [])
    assert response.json["models"]["m"] == {"state": "ready", "workers": 1, "reason": None}


def test_what_is_missing_is_named(make_app: MakeApp, redis: Redis) -> None:
    models = registry(model("loading"), model("broken", preload=False), model("alone"))
    client = make_app(models=models).test_client()
    PresenceBoard(redis).announce(worker({"loading": presence("loading"), "broken": presence("failed", reason="no file")}))
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json["missing"] == [
        "the model loading is not loaded yet (state loading)",
        "the model broken failed to load: no file",
        "no live worker serves the model alone",
    ]


def test_a_missing_redis_is_named(make_app: MakeApp) -> None:
    body = make_app(redis_url="redis://127.0.0.1:1/0").test_client().get("/readyz").json
    assert (body["redis"], body["missing"]) == ("away", ["Redis cannot be reached"])


def test_a_missing_storage_is_named(make_app: MakeApp, redis: Redis, tmp_path: Path) -> None:
    PresenceBoard(redis).announce(worker({"m": presence(), "strict": presence()}))
    client = make_app().test_client()
    (tmp_path / "storage" / "tmp").rmdir()
    (tmp_path / "storage" / "tmp").write_text("a file where a directory should be")
    response = client.get("/readyz")
    assert (response.status_code, response.json["storage"]) == (503, "away")
    assert response.json["missing"][0].startswith("storage cannot be used")


def test_a_bad_entry_is_shown_beside_the_good_ones(make_app: MakeApp, redis: Redis) -> None:
    good = model("m")
    client = make_app(models=ModelRegistry({"m": good}, (Problem(Path("models.yaml"), 3, "x: unknown key"),))).test_client()
    PresenceBoard(redis).announce(worker({"m": presence()}))
    response = client.get("/readyz")
    assert (response.status_code, response.json["problems"]) == (200, ["models.yaml:3: x: unknown key"])


def test_models_are_listed_with_what_their_workers_say(client: FlaskClient, redis: Redis) -> None:
    PresenceBoard(redis).announce(worker({"m": presence("loading")}, "w1"))
    PresenceBoard(redis).announce(worker({"m": presence()}, "w2"))
    body = client.get("/v1/models").json
    assert [entry["id"] for entry in body["data"]] == ["m", "strict"]
    first = body["data"][0]
    assert (first["object"], first["owned_by"], first["state"], first["dimensions"]) == ("model", "umekomi", "ready", 8)
    assert (first["max_tokens"], first["dtype"], first["device"]) == (16, "float32", "cpu")
    assert isinstance(first["created"], int)
    assert body["data"][1]["state"] == "unknown"


def test_a_model_tells_what_it_makes_and_its_prompts(client: FlaskClient, redis: Redis) -> None:
    PresenceBoard(redis).announce(
        worker({"m": replace(presence(), kind="rerank"), "strict": replace(presence(), prompts=("query",))})
    )
    first, second = client.get("/v1/models").json["data"]
    assert (first["kind"], first["prompts"], second["kind"], second["prompts"]) == ("rerank", [], "embed", ["query"])


@pytest.mark.parametrize("path", ["/v1/models/org/m", "/v1/models/org/m/", "/models/m"])
def test_one_model_is_found_by_name_or_alias_with_slashes(client: FlaskClient, path: str) -> None:
    assert client.get(path).json["id"] == "m"


def test_an_unknown_model_is_404_in_openais_form(client: FlaskClient) -> None:
    response = client.get("/v1/models/gpt")
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")


def test_models_are_listed_while_redis_is_away(make_app: MakeApp) -> None:
    body = make_app(redis_url="redis://127.0.0.1:1/0").test_client().get("/models").json
    assert {entry["state"] for entry in body["data"]} == {"unknown"}


def test_the_front_page_names_the_routes(client: FlaskClient) -> None:
    assert "POST /v1/embeddings" in client.get("/").json["routes"]
    assert set(client.get("/version").json) == {"version"}
