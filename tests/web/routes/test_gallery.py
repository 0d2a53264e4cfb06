from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from flask.testing import FlaskClient
from redis import Redis

from shared.downloads import DownloadBoard, State
from shared.settings import Settings
from tests.web.conftest import MakeApp
from tests.web.support import error_of
from web.app import create_app
from web.gallery import file_name
from web.parts import EXTENSION


def apply(client: FlaskClient, body: Any) -> Any:
    return client.post("/models/apply", json=body)


def only(board: DownloadBoard) -> dict[str, Any]:
    (found,) = board.all()
    return dict(found.wish.entry)


@pytest.mark.parametrize(
    ("body", "name", "model"),
    [
        ({"id": "intfloat/multilingual-e5-small"}, "multilingual-e5-small", "intfloat/multilingual-e5-small"),
        ({"id": "huggingface@org/name", "name": "mine"}, "mine", "org/name"),
        ({"url": "huggingface://org/name"}, "name", "huggingface://org/name"),
        ({"url": "https://huggingface.co/org/name"}, "name", "https://huggingface.co/org/name"),
        ({"name": "org/name"}, "name", "org/name"),
        ({"name": "local", "overrides": {"parameters": {"model": "/models/local"}}}, "local", "/models/local"),
        ({"id": "org/name", "overrides": {"name": "mine"}, "files": [], "gallery": "x"}, "mine", "org/name"),
    ],
)
def test_a_model_is_wished_for_in_any_spelling(
    client: FlaskClient, redis: Redis, body: dict[str, Any], name: str, model: str
) -> None:
    response = apply(client, body)

    assert response.status_code == 200
    assert response.json["status"] == f"http://localhost/models/jobs/{response.json['uuid']}"
    entry = only(DownloadBoard(redis))
    assert (entry["name"], entry["parameters"]["model"]) == (name, model)


def test_overrides_are_keys_of_the_entry_and_those_of_other_models_are_left_out(client: FlaskClient, redis: Redis) -> None:
    overrides = {"dimensions": 64, "mmap": True, "parameters": {"temperature": 0.2}, "prompts": {"query": "query: "}}

    assert apply(client, {"id": "org/name", "overrides": overrides}).status_code == 200

    entry = only(DownloadBoard(redis))
    assert (entry["dimensions"], entry["prompts"], entry["parameters"]) == (64, {"query": "query: "}, {"model": "org/name"})
    assert "mmap" not in entry


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "id"),
        ({"id": "localai@bert-embeddings"}, "id"),
        ({"id": "../../etc/passwd"}, "id"),
        ({"id": 7}, "id"),
        ({"url": "github:mudler/LocalAI/gallery/bert.yaml"}, "url"),
        ({"name": "just-a-name"}, "id"),
        ({"name": "", "id": "org/name"}, "name"),
        ({"name": "a{b}", "id": "org/name"}, "name"),
        ({"name": "m", "id": "org/name"}, "name"),
        ({"id": "org/name", "overrides": {"alias": "org/m"}}, "name"),
        ({"id": "org/name", "overrides": []}, "overrides"),
        ({"id": "org/name", "overrides": {"parameters": 5}}, "overrides"),
        ({"id": "org/name", "overrides": {"dimension": 5}}, "overrides"),
        ({"id": "org/name", "overrides": {"dimensions": -5}}, "overrides"),
        ({"id": "org/name", "overrides": {"backend": "llama-cpp"}}, "overrides"),
        ({"id": "org/name", "files": [{"uri": "https://x/y.gguf"}]}, "files"),
        ({"id": "x" * 501}, "id"),
    ],
)
def test_what_cannot_be_applied_is_refused_by_name(client: FlaskClient, redis: Redis, body: dict[str, Any], param: str) -> None:
    response = apply(client, body)

    assert response.status_code == 400
    assert error_of(response)["param"] == param
    assert DownloadBoard(redis).all() == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"org/name"', b"\xff"])
def test_a_body_that_is_no_json_object_is_refused(client: FlaskClient, body: bytes) -> None:
    response = client.post("/models/apply", data=body, content_type="application/json")

    assert response.status_code == 400
    assert error_of(response)["code"] == "invalid_json"


def test_a_job_tells_how_far_it_is_as_localai_does(client: FlaskClient, redis: Redis) -> None:
    board = DownloadBoard(redis)
    uuid = apply(client, {"id": "org/name"}).json["uuid"]
    assert client.get(f"/models/jobs/{uuid}").json["message"] == "waiting for a worker"
    (download,) = board.all()
    board.write(download.wish, State(message="downloading", file="model.safetensors", done_bytes=2**20, total_bytes=2**22))

    job = client.get(f"/models/jobs/{uuid}").json

    assert job["progress"] == 25.0
    assert (job["file_name"], job["downloaded_size"], job["file_size"]) == ("model.safetensors", "1.0 MiB", "4.0 MiB")
    assert (job["processed"], job["error"], job["cancellable"]) == (False, None, True)
    assert client.get("/models/jobs").json == {uuid: job}


def test_a_cancelled_job_says_so(client: FlaskClient) -> None:
    uuid = apply(client, {"id": "org/name"}).json["uuid"]

    cancelled = client.delete(f"/models/jobs/{uuid}").json

    assert (cancelled["cancelled"], cancelled["message"]) == (True, "cancelling")
    assert client.post(f"/models/jobs/{uuid}/cancel").json == cancelled


def test_an_unknown_job_is_not_found(client: FlaskClient) -> None:
    for response in (client.get("/models/jobs/none"), client.delete("/models/jobs/none")):
        assert response.status_code == 404
        assert error_of(response)["code"] == "not_found"


def test_there_are_no_galleries(client: FlaskClient) -> None:
    assert client.get("/models/available").json == []


def test_the_routes_are_the_admins(make_app: MakeApp) -> None:
    client = make_app(api_keys="secret").test_client()

    assert apply(client, {"id": "org/name"}).status_code == 401
    assert client.get("/models/jobs").status_code == 401


def test_what_a_job_wrote_is_served_as_soon_as_it_is_seen_to_be_done(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    settings = Settings(redis_url=redis_url, storage_url=str(tmp_path / "storage"), data_dir=tmp_path)
    app = create_app(settings)
    try:
        client = app.test_client()
        uuid = apply(client, {"id": "org/name"}).json["uuid"]
        (download,) = DownloadBoard(redis).all()
        settings.applied_models.mkdir()
        (settings.applied_models / download.wish.file).write_text(yaml.safe_dump([dict(download.wish.entry)]))
        DownloadBoard(redis).write(download.wish, State(message="completed", is_over=True))

        assert client.get(f"/models/jobs/{uuid}").json["progress"] == 100.0

        assert [model["id"] for model in client.get("/v1/models").json["data"]] == ["all-MiniLM-L6-v2", "name"]
        assert apply(client, {"id": "org/other", "name": "name"}).status_code == 200  # its own entry may be applied anew
    finally:
        app.extensions[EXTENSION].close()


def test_a_file_that_has_other_models_is_not_replaced(redis_url: str, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    entries = [{"name": name, "backend": "fake", "parameters": {"model": "none"}} for name in ("mine", "theirs")]
    (models / "mine.yaml").write_text(yaml.safe_dump(entries))
    (models / "models.yaml").write_text(yaml.safe_dump([entries[0] | {"name": "first"}]))
    app = create_app(Settings(redis_url=redis_url, data_dir=tmp_path, models_path=models))
    try:
        client = app.test_client()
        assert {model["id"] for model in client.get("/v1/models").json["data"]} >= {"mine", "theirs", "first"}
        for name in ("mine", "models"):
            refused = apply(client, {"id": "org/name", "name": name})
            assert (refused.status_code, error_of(refused)["param"]) == (400, "name"), refused.data
            assert "would be replaced" in error_of(refused)["message"]
    finally:
        app.extensions[EXTENSION].close()


def test_two_names_never_share_a_file() -> None:
    names = ["a", "a/b", "a_b", "A", "../a", ".a", "モデル", "埋め込み", "x" * 200, "x" * 199]
    files = [file_name(name) for name in names]

    assert len(set(files)) == len(names)
    assert all("/" not in file and not file.startswith(".") and len(file) < 120 for file in files)
