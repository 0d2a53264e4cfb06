from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from shared.downloads import Download, DownloadBoard, Wish
from shared.hub import Hub, cached
from shared.models import read_registry
from tests.support.hub import FakeHub, model_files
from tests.support.waiting import wait_until
from worker.applying import Applier

WISH = Wish(
    entry={"name": "モデル", "backend": "sentence-transformers", "embeddings": True, "parameters": {"model": "org/m"}},
    file="m.yaml",
)
WEIGHTS = b"w" * 2_000_000
MakeApplier = Callable[..., Applier]


@pytest.fixture
def board(redis: Redis) -> DownloadBoard:
    return DownloadBoard(redis)


@pytest.fixture
def applier(board: DownloadBoard, hub: Hub, tmp_path: Path) -> Iterator[MakeApplier]:
    made: list[Applier] = []

    def make(worker_id: str = "w1", on_applied: Callable[[], None] = lambda: None) -> Applier:
        made.append(Applier(board, hub, tmp_path / "models", worker_id, on_applied))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def state(board: DownloadBoard, wish: Wish = WISH) -> Download:
    found = board.get(wish.id)
    assert found is not None
    return found


def left_of(hub: Hub) -> int:
    """Bytes of the weights that did not come whole."""
    part = hub.cache / "models--org--m" / "blobs" / f"{hashlib.sha256(WEIGHTS).hexdigest()}.incomplete"
    return part.stat().st_size if part.exists() else 0


def until_over(applier: Applier, board: DownloadBoard) -> Download:
    def is_over() -> bool:
        applier.look()
        return state(board).state.is_over

    wait_until(is_over)
    return state(board)


def test_an_applied_model_is_fetched_and_its_entry_written(
    server: FakeHub, hub: Hub, board: DownloadBoard, applier: MakeApplier, tmp_path: Path
) -> None:
    server.add("org/m", model_files())
    heard: list[list[str]] = []
    board.add(WISH)

    over = until_over(applier(on_applied=lambda: heard.append([path.name for path in (tmp_path / "models").iterdir()])), board)

    assert (over.state.error, over.state.message, over.state.done_files) == (None, "completed", 5)
    assert over.state.done_bytes == over.state.total_bytes > 300_000
    assert cached(hub, "org/m") is not None
    assert heard == [["m.yaml"]]
    registry = read_registry(None, tmp_path / "models")
    assert registry.problems == ()
    assert registry.get("モデル").parameters.model == "org/m"


def test_what_the_hub_refuses_is_the_jobs_error_and_no_entry(
    server: FakeHub, board: DownloadBoard, applier: MakeApplier, tmp_path: Path
) -> None:
    server.add("org/m", model_files(), token="secret")
    board.add(WISH)

    over = until_over(applier(), board)

    assert over.state.error is not None
    assert "gated" in over.state.error
    assert not (tmp_path / "models").exists()


def test_a_cancelled_job_ends_and_what_it_fetched_is_kept(
    server: FakeHub, hub: Hub, board: DownloadBoard, applier: MakeApplier
) -> None:
    repository = server.add("org/m", model_files(WEIGHTS), gate=threading.Event())
    board.add(WISH)
    working = applier()
    wait_until(lambda: working.look() is None and left_of(hub) == 1000)
    board.cancel(WISH.id)
    working.look()
    assert repository.gate is not None
    repository.gate.set()

    over = until_over(working, board)

    assert over.state.error is not None
    assert over.state.error.startswith("cancelled")
    assert left_of(hub) >= 1000


def test_what_a_dead_worker_left_another_one_takes_over(
    server: FakeHub, redis: Redis, board: DownloadBoard, applier: MakeApplier
) -> None:
    server.add("org/m", model_files())
    board.add(WISH)
    assert board.hold(WISH.id, "dead")
    working = applier("w2")
    working.look()
    assert state(board).state.message == "waiting for a worker"
    board.release(WISH.id, "dead")  # as its lease runs out

    assert until_over(working, board).state.error is None


def test_a_worker_that_stops_leaves_its_job_to_another_one_at_once(
    server: FakeHub, board: DownloadBoard, applier: MakeApplier
) -> None:
    repository = server.add("org/m", model_files(WEIGHTS), gate=threading.Event())
    board.add(WISH)
    first = applier("w1")
    first.start()
    wait_until(lambda: state(board).state.message == "downloading")
    first.drain()
    assert repository.gate is not None
    repository.gate.set()
    first.stop()
    assert not state(board).state.is_over

    assert until_over(applier("w2"), board).state.error is None


def test_a_job_over_which_workers_die_is_given_up(board: DownloadBoard, applier: MakeApplier) -> None:
    board.add(WISH)
    for _ in range(5):
        board.attempt(WISH.id)

    over = until_over(applier(), board)

    assert over.state.error == "5 workers died fetching it"


def test_a_job_goes_on_when_redis_forgot_it(server: FakeHub, redis: Redis, board: DownloadBoard, applier: MakeApplier) -> None:
    repository = server.add("org/m", model_files(), gate=threading.Event())
    board.add(WISH)
    working = applier()
    wait_until(lambda: working.look() is None and state(board).state.message == "downloading")
    redis.flushall()
    assert repository.gate is not None
    repository.gate.set()
    working.look()

    assert until_over(working, board).state.error is None
