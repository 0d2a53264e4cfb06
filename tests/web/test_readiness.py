from __future__ import annotations

from redis import Redis

from shared.connections import connect
from shared.errors import ModelNotReady
from shared.presence import DownloadPresence, PresenceBoard
from tests.support.valkey import free_port
from tests.web.support import model, presence, worker
from web.openai import model_object
from web.readiness import serve, why_not_ready

HALF = DownloadPresence(done_bytes=2_000_000, total_bytes=4_000_000, done_files=3, total_files=5, eta_s=12.0)


def test_who_waited_in_vain_for_a_download_hears_how_far_it_is(redis: Redis) -> None:
    board = PresenceBoard(redis)
    board.announce(worker({"m": presence("downloading", download=HALF, reason=str(HALF))}))

    why = why_not_ready(board, "m")

    assert isinstance(why, ModelNotReady)
    assert why.message == "the model 'm' is being downloaded: 2.0 of 4.0 MB (50 %), 3 of 5 files, about 12 s left"
    assert why.retry_after_s == 12.0


def test_nothing_is_made_up_for_a_model_that_is_ready_somewhere_or_of_which_nobody_knows(redis: Redis) -> None:
    board = PresenceBoard(redis)
    board.announce(worker({"m": presence("downloading", download=HALF)}, "w1"))
    board.announce(worker({"m": presence("ready"), "n": presence("available")}, "w2"))

    assert why_not_ready(board, "m") is None
    assert why_not_ready(board, "n") is None
    assert why_not_ready(board, "unknown") is None
    assert why_not_ready(PresenceBoard(connect(f"redis://127.0.0.1:{free_port()}/0")), "m") is None


def test_who_finds_no_worker_for_a_model_that_does_not_load_hears_the_reason(redis: Redis) -> None:
    board = PresenceBoard(redis)
    board.announce(worker({"m": presence("failed", reason="OSError: no such file"), "n": presence("failed")}, "w1"))
    board.announce(worker({"n": presence("available")}, "w2"))

    why = why_not_ready(board, "m")

    assert isinstance(why, ModelNotReady)
    assert why.message == "the model 'm' could not be loaded: OSError: no such file"
    assert why_not_ready(board, "n") is None


def test_of_several_workers_the_one_that_downloads_counts() -> None:
    waits = DownloadPresence(done_bytes=0, total_bytes=4_000_000, done_files=0, total_files=5)
    workers = [
        worker({"m": presence("downloading", download=waits)}, "w1"),
        worker({"m": presence("downloading", download=HALF)}, "w2"),
        worker({"m": presence("failed")}, "w3"),
    ]

    told = model_object(serve(model("m"), workers, 0.0))

    assert told["state"] == "downloading"
    assert told["download"] == {
        "done_bytes": 2_000_000,
        "total_bytes": 4_000_000,
        "done_files": 3,
        "total_files": 5,
        "eta_s": 12.0,
    }


def test_a_download_comes_through_redis_as_it_was(redis: Redis) -> None:
    board = PresenceBoard(redis)
    board.announce(worker({"m": presence("downloading", download=HALF)}))

    (found,) = board.workers()

    assert found.models["m"].download == HALF
