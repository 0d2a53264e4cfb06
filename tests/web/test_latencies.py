"""Latencies of the last minute: quantiles out of few buckets, over all web processes."""

from __future__ import annotations

import pytest
from redis import Redis

from shared import keys
from tests.support.waiting import wait_until
from web.latencies import SLOT_S, WINDOW_S, Latencies, LatencyBoard, Slot, bucket_of, last_minute


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("seconds", [0.0007, 0.004, 0.031, 0.5, 7.0, 55.0])
def test_a_quantile_is_off_by_a_tenth_at_most(seconds: float) -> None:
    slot = Slot({bucket_of(seconds): 10})
    assert slot.quantile(0.5) == pytest.approx(seconds, rel=0.1)


def test_quantiles_tell_the_middle_from_the_tail() -> None:
    slot = Slot()
    for seconds in [0.01] * 98 + [1.0] * 2:
        slot.add(Slot({bucket_of(seconds): 1}))
    assert slot.quantile(0.5) == pytest.approx(0.01, rel=0.1)
    assert slot.quantile(0.99) == pytest.approx(1.0, rel=0.1)
    assert Slot().quantile(0.5) is None


def test_what_is_older_than_a_minute_is_forgotten_by_who_measures_and_by_who_looks() -> None:
    clock = Clock()
    latencies = Latencies(clock)
    latencies.answered("m", 0.01)
    latencies.failed("m")
    published = {b"web": latencies.to_json()}
    (slot,) = last_minute(published, clock.now).values()
    assert (slot.answered, slot.failed) == (1, 1)
    assert last_minute(published, clock.now + WINDOW_S + SLOT_S) == {}

    clock.now += WINDOW_S + SLOT_S
    latencies.answered("m", 0.01)
    assert last_minute({b"web": latencies.to_json()}, clock.now)["m"].answered == 1


def test_every_web_process_counts_and_one_that_is_gone_is_removed(redis: Redis) -> None:
    clock = Clock()
    boards = []
    for web_id in ("one", "two"):
        latencies = Latencies(clock)
        latencies.answered("m", 0.02)
        boards.append(LatencyBoard(redis, web_id, latencies))
        boards[-1].publish()
    assert boards[0].read(clock.now)["m"].answered == 2
    assert boards[0].read(clock.now + 2 * WINDOW_S) == {}
    assert redis.hlen(keys.LATENCIES) == 0


def test_news_are_published_by_themselves(redis: Redis) -> None:
    latencies = Latencies()
    board = LatencyBoard(redis, "one", latencies)
    board.start()
    try:
        latencies.answered("m", 0.02)
        wait_until(lambda: redis.hlen(keys.LATENCIES) == 1)
    finally:
        board.stop()
