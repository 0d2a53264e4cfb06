"""The heartbeat looks whether a batch hangs."""

from __future__ import annotations

from typing import Any, cast

import pytest
from redis import Redis

from shared.presence import PresenceBoard
from tests.support.engine import EngineDouble
from worker.heartbeat import Heartbeat


class Idle:
    """Lanes with nothing in them."""

    def running(self) -> list[Any]:
        return []

    def renew(self) -> None: ...
    def stop_those_stopped(self) -> None: ...
    def take_over(self, is_alive: set[str]) -> None: ...
    def refuse_departed(self) -> None: ...


@pytest.mark.parametrize(("longest", "timeout_s", "ends"), [(301.0, 300.0, True), (299.0, 300.0, False), (9e9, None, False)])
def test_a_batch_that_hangs_ends_the_process_where_the_watchdog_is_on(
    redis: Redis, longest: float, timeout_s: float | None, ends: bool
) -> None:
    engine, ended, idle = EngineDouble(), [], cast(Any, Idle())
    engine.longest = ("m", longest)
    board = PresenceBoard(redis)
    heartbeat = Heartbeat(
        board, cast(Any, engine), idle, idle, "w1", 1.0, 1, busy_timeout_s=timeout_s, on_stuck=lambda: ended.append("now")
    )

    heartbeat.beat()

    assert bool(ended) is ends


def test_a_worker_whose_batches_end_beats_on(redis: Redis) -> None:
    idle = cast(Any, Idle())
    board = PresenceBoard(redis)
    Heartbeat(board, cast(Any, EngineDouble()), idle, idle, "w1", 1.0, 1, busy_timeout_s=1.0).beat()

    assert board.is_alive("w1")
