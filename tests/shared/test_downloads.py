from __future__ import annotations

from typing import Any, cast

import orjson
from redis import Redis

from shared import keys
from shared.downloads import MAX_RECORDS, DownloadBoard, State, Wish


def wish(name: str = "m", created_at: float = 1.0) -> Wish:
    return Wish(entry={"name": name, "parameters": {"model": "org/m"}}, file=f"{name}.yaml", created_at=created_at)


def test_a_wish_waits_until_a_worker_tells_how_far_it_is(redis: Redis) -> None:
    board, wanted = DownloadBoard(redis), wish()
    board.add(wanted)
    assert board.get(wanted.id) is not None

    assert board.write(wanted, State(message="downloading", done_bytes=5, total_bytes=9)) is False

    found = board.get(wanted.id)
    assert found is not None
    assert (found.wish, found.state.done_bytes, found.is_cancelled) == (wanted, 5, False)


def test_one_worker_holds_a_wish_until_it_lets_go(redis: Redis) -> None:
    board = DownloadBoard(redis)

    assert [board.hold("x", "w1"), board.hold("x", "w2"), board.hold("x", "w1")] == [True, False, True]
    board.release("x", "w2")
    assert not board.hold("x", "w2")
    board.release("x", "w1")
    assert board.hold("x", "w2")
    assert 0 < int(str(redis.pttl(keys.lock("download:x")))) <= 15_000


def test_a_cancelled_wish_tells_its_worker(redis: Redis) -> None:
    board, wanted = DownloadBoard(redis), wish()
    board.add(wanted)

    cancelled = board.cancel(wanted.id)

    assert cancelled is not None
    assert cancelled.is_cancelled
    assert board.write(wanted, State(message="downloading")) is True


def test_what_is_over_cannot_be_cancelled(redis: Redis) -> None:
    board, wanted = DownloadBoard(redis), wish()
    board.write(wanted, State(is_over=True))

    found = board.cancel(wanted.id)

    assert found is not None
    assert not found.is_cancelled
    assert board.cancel("unknown") is None


def test_a_record_that_redis_lost_is_written_anew(redis: Redis) -> None:
    board, wanted = DownloadBoard(redis), wish()
    board.add(wanted)
    redis.flushall()

    board.write(wanted, State(message="downloading"))

    assert [found.wish for found in board.all()] == [wanted]


def test_the_list_is_newest_first_bounded_and_expires(redis: Redis) -> None:
    board = DownloadBoard(redis)
    for number in range(MAX_RECORDS + 3):
        board.add(wish(f"m{number}", created_at=number))

    assert [found.wish.name for found in board.all()][:2] == [f"m{MAX_RECORDS + 2}", f"m{MAX_RECORDS + 1}"]
    assert redis.zcard(keys.DOWNLOADS) == MAX_RECORDS
    assert int(str(redis.ttl(keys.DOWNLOADS))) > 0


def test_a_record_of_another_version_stops_no_other(redis: Redis) -> None:
    board = DownloadBoard(redis)
    ours, newer, other = (board.add(wish(name)).wish for name in ("ours", "newer", "other"))
    said = orjson.loads(cast(Any, redis.hget(keys.download(newer.id), "wish")))
    redis.hset(keys.download(newer.id), "wish", orjson.dumps(said | {"more": 1}))
    redis.hset(keys.download(other.id), "wish", b"{}")

    assert {found.wish.name for found in board.all()} == {ours.name, newer.name}
