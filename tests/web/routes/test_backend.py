"""How the models stand, and telling the workers to load and unload them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from shared.control import Command, ControlServer
from shared.presence import ModelPresence, PresenceBoard
from tests.web.conftest import MakeApp
from tests.web.support import error_of, model, presence, registry, worker

LOADED = {"memory_bytes": 1000, "loaded_at": 5.0, "last_used_at": 7.0, "users": 2}


class ObeyingWorker:
    """Takes commands and tells what the test says; `commands` is what it was told."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.commands: list[Command] = []
        self.outcome: Callable[[Command], tuple[str, str | None]] = lambda command: (
            ("ready" if command.verb == "load" else "unloaded"),
            None,
        )
        self.models: dict[str, ModelPresence] = {"m": presence(**LOADED), "p": presence("available")}
        self.announce()

    def announce(self) -> None:
        PresenceBoard(self.redis).announce(worker(self.models, "w1"))

    def obey(self, count: int = 1) -> threading.Thread:
        """Take so many commands, in a thread."""
        server = ControlServer(self.redis, "w1")

        def run() -> None:
            while len(self.commands) < count:
                self.announce()
                if (command := server.take(0.2)) is not None:
                    self.commands.append(command)
                    server.tell(command, *self.outcome(command))

        thread = threading.Thread(target=run, name="obeying-worker")
        thread.start()
        return thread


@pytest.fixture
def obeying(redis: Redis) -> ObeyingWorker:
    return ObeyingWorker(redis)


@pytest.fixture
def client(make_app: MakeApp) -> FlaskClient:
    return make_app(
        models=registry(model("m", alias="org/m"), model("p", pinned=True, preload=False)), interactive_timeout_s=1
    ).test_client()


@pytest.fixture
def told(obeying: ObeyingWorker) -> Iterator[ObeyingWorker]:
    """A worker that obeys one command."""
    thread = obeying.obey()
    yield obeying
    thread.join()


@pytest.mark.parametrize("ask", [{"query_string": {"model": "org/m"}}, {"json": {"model": "m"}}])
def test_the_monitor_shows_a_model_on_every_worker(client: FlaskClient, obeying: ObeyingWorker, ask: Any) -> None:
    body = client.get("/backend/monitor", **ask).json
    assert (body["model"], body["state"], body["memory"]) == ("m", "ready", {"total": 1000})
    [here] = body["workers"]
    assert (here["worker"], here["state"], here["memory_bytes"], here["in_use"]) == ("w1", "ready", 1000, 2)
    assert (here["loaded_at"], here["last_used_at"], here["device"]) == (5.0, 7.0, "cpu")


def test_the_monitor_without_a_name_shows_all(client: FlaskClient, obeying: ObeyingWorker) -> None:
    body = client.get("/v1/backend/monitor").json
    assert [(each["model"], each["state"], each["pinned"]) for each in body["data"]] == [
        ("m", "ready", False),
        ("p", "available", True),
    ]


@pytest.mark.parametrize(
    "said",
    [
        {"json": {"model": "org/m"}},
        {"data": b'{"model": "m"}', "content_type": "application/x-www-form-urlencoded"},  # curl -d
        {"data": {"model": "m"}},
        {"query_string": {"model": "m"}},
    ],
)
def test_a_model_is_unloaded_on_every_worker(client: FlaskClient, told: ObeyingWorker, said: Any) -> None:
    response = client.post("/backend/shutdown", **said)
    assert (response.status_code, response.json) == (200, {"model": "m", "workers": {"w1": "unloaded"}})
    assert [(command.verb, command.model) for command in told.commands] == [("unload", "m")]


def test_a_model_is_loaded_and_the_first_ready_worker_answers(client: FlaskClient, told: ObeyingWorker) -> None:
    response = client.post("/backend/load", json={"model": "p"})
    assert (response.status_code, response.json) == (200, {"model": "p", "state": "ready", "worker": "w1"})


def test_a_load_that_fails_or_lasts_is_503_and_says_so(client: FlaskClient, obeying: ObeyingWorker) -> None:
    for state, reason, said in (("failed", "no such file", "no such file"), ("loading", None, "still loading")):
        obeying.commands.clear()
        obeying.outcome = lambda _, state=state, reason=reason: (state, reason)
        thread = obeying.obey()
        response = client.post("/backend/load", json={"model": "m"})
        thread.join()
        assert response.status_code == 503
        assert said in error_of(response)["message"]
        assert int(response.headers["Retry-After"]) > 0


def test_a_pinned_model_goes_only_by_force(client: FlaskClient, obeying: ObeyingWorker) -> None:
    response = client.post("/backend/shutdown", json={"model": "p"})
    assert (response.status_code, error_of(response)["param"]) == (400, "model")
    assert "pinned" in error_of(response)["message"]

    thread = obeying.obey()
    assert client.post("/backend/shutdown", json={"model": "p", "force": True}).status_code == 200
    thread.join()


def test_one_in_use_is_503_and_names_the_worker(client: FlaskClient, told: ObeyingWorker) -> None:
    told.outcome = lambda _: ("in use", None)
    response = client.post("/backend/shutdown", json={"model": "m"})
    assert response.status_code == 503
    assert "in use on w1" in error_of(response)["message"]


def test_a_worker_that_says_nothing_is_503_at_the_deadline(client: FlaskClient, obeying: ObeyingWorker) -> None:
    response = client.post("/backend/shutdown", json={"model": "m"})
    assert (response.status_code, error_of(response)["code"]) == (503, "no_worker")


def test_without_a_worker_it_is_503_at_once(client: FlaskClient, redis: Redis) -> None:
    response = client.post("/backend/load", json={"model": "m"})
    assert (response.status_code, error_of(response)["code"]) == (503, "no_worker")


@pytest.mark.parametrize("path", ["/backend/load", "/backend/shutdown"])
@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"", 400, "model"),
        (b"{}", 400, "model"),
        (b'{"model": ""}', 400, "model"),
        (b'{"model": null}', 400, "model"),
        (b'{"model": 7}', 400, "model"),
        (b'{"model": ["m"]}', 400, "model"),
        (b'{"model": "nobody"}', 404, "model"),
        (b'{"model": "m"', 400, None),
        (b"[]", 400, None),
        (b"\xff", 400, None),
        (b"x" * 100_000, 413, None),
    ],
)
def test_a_wrong_body_is_refused(client: FlaskClient, path: str, body: bytes, status: int, param: str | None) -> None:
    response = client.post(path, data=body, content_type="application/json")
    assert (response.status_code, error_of(response)["param"]) == (status, param)


def test_force_must_be_a_boolean(client: FlaskClient) -> None:
    response = client.post("/backend/shutdown", json={"model": "p", "force": "yes"})
    assert (response.status_code, error_of(response)["param"]) == (400, "force")


def test_the_system_shows_what_is_loaded_where(client: FlaskClient, obeying: ObeyingWorker, redis: Redis) -> None:
    PresenceBoard(redis).announce(replace(worker({"m": presence(**LOADED)}, "w2"), device="cuda"))
    body = client.get("/system").json
    assert body["backends"] == ["fake"]
    assert body["loaded_models"] == [{"id": "m"}]
    assert [(each["id"], each["loaded_models"], each["memory"]) for each in body["workers"]] == [
        ("w1", ["m"], {"total": 1000}),
        ("w2", ["m"], {"total": 1000}),
    ]
    assert (body["devices"], body["memory"]) == (["cpu", "cuda"], {"total": 2000})
    assert body["version"]


def test_a_model_says_its_memory_over_all_workers(client: FlaskClient, obeying: ObeyingWorker, redis: Redis) -> None:
    PresenceBoard(redis).announce(worker({"m": presence(**LOADED | {"last_used_at": 9.0})}, "w2"))
    body = client.get("/v1/models/m").json
    assert (body["memory_bytes"], body["last_used_at"]) == (2000, 9)
    assert client.get("/v1/models/p").json["memory_bytes"] is None


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        ({"state": "available", "unloaded_at": 5.0}, False),  # idle, or in another one's way
        ({"state": "loading", "unloaded_at": 5.0}, False),  # comes back
        ({"state": "available"}, False),  # there was no room for it
        ({"state": "loading"}, True),
        ({"state": "available", "reason": "no such file"}, True),
    ],
)
def test_a_model_that_was_unloaded_does_not_make_the_service_unready(
    client: FlaskClient, redis: Redis, said: Any, missing: bool
) -> None:
    PresenceBoard(redis).announce(worker({"m": ModelPresence(**said), "p": presence("available")}))
    assert bool(client.get("/readyz").json["missing"]) is missing
