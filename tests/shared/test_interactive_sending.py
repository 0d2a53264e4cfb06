"""Asks of many threads go into the lane together, each hears of its own failure, and none is forgotten."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from redis import Redis

from shared import keys
from shared.connections import connect
from shared.errors import LaneFull, NoWorker, RedisAway, UmekomiError
from shared.interactive import Ask
from shared.interactive.sending import MAX_ASKS, MAX_BYTES, Sender, Waiting
from shared.interactive.wire import encode_ask
from shared.presence import ModelPresence, PresenceBoard, WorkerPresence
from tests.support.valkey import free_port
from tests.support.waiting import wait_until


class HeldSender(Sender):
    """Its round trips are counted, and go on only while the gate is open."""

    def __init__(self, redis: Redis, **limits: int) -> None:
        self.trips: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.unwanted: set[str] = set()
        is_wanted = lambda waiting: waiting.ask.id not in self.unwanted  # noqa: E731
        sizes = {"max_waiting": 1000, "max_waiting_bytes": 2**26} | limits
        super().__init__(redis, "umekomi:answers:w", is_wanted=is_wanted, **sizes)

    def enter(self, asks: Sequence[Waiting]) -> list[UmekomiError | None]:
        self.trips.append(len(asks))
        assert self.gate.wait(20)
        return super().enter(asks)


@pytest.fixture
def sender(redis: Redis) -> Iterator[HeldSender]:
    models = {"m": ModelPresence(state="ready")}
    PresenceBoard(redis).announce(
        WorkerPresence(id="w", host="h", pid=1, device="cpu", started_at=0, shards_at_once=1, models=models)
    )
    sender = HeldSender(redis)
    sender.start()
    yield sender
    sender.gate.set()
    sender.stop()


def make(text: str = "a", model: str = "m") -> Waiting:
    ask = Ask(id=uuid.uuid4().hex, model=model, deadline=time.time() + 20, texts=[text])
    return Waiting(ask, encode_ask(ask))


def hold_one(sender: HeldSender) -> threading.Thread:
    """A thread whose ask is on its way until the gate is opened."""
    sender.gate.clear()
    thread = threading.Thread(target=sender.send, args=(make(),))
    thread.start()
    wait_until(lambda: sender.trips)
    return thread


def test_an_ask_alone_is_in_when_send_returns(sender: HeldSender, redis: Redis) -> None:
    waiting = make()

    sender.send(waiting)

    assert redis.xlen(keys.asks("m")) == 1
    assert waiting.entry
    assert not waiting.future.done()


def test_what_comes_meanwhile_goes_together(sender: HeldSender, redis: Redis) -> None:
    first = hold_one(sender)
    others = [make(str(number)) for number in range(MAX_ASKS + 5)]
    for waiting in others:
        sender.send(waiting)

    sender.gate.set()
    first.join()

    wait_until(lambda: all(waiting.entry for waiting in others))
    assert sender.trips == [1, MAX_ASKS, 5]
    assert redis.xlen(keys.asks("m")) == len(others) + 1


def test_large_asks_hold_up_nobody(sender: HeldSender) -> None:
    first = hold_one(sender)
    others = [make("x" * (MAX_BYTES // 2)) for _ in range(3)] + [make()]
    for waiting in others:
        sender.send(waiting)

    sender.gate.set()
    first.join()

    wait_until(lambda: all(waiting.entry for waiting in others))
    assert sender.trips == [1, 1, 1, 2]


def test_each_hears_of_its_own_failure(sender: HeldSender) -> None:
    first = hold_one(sender)
    good, lost = make(), make(model="nobody's")
    for waiting in (lost, good):
        sender.send(waiting)

    sender.gate.set()
    first.join()

    assert isinstance(lost.future.exception(timeout=20), NoWorker)
    wait_until(lambda: good.entry)
    assert not good.future.done()


def test_an_ask_that_nobody_waits_for_any_more_is_not_sent(sender: HeldSender, redis: Redis) -> None:
    first = hold_one(sender)
    gone, wanted = make(), make()
    for waiting in (gone, wanted):
        sender.send(waiting)
    sender.unwanted.add(gone.ask.id)

    sender.gate.set()
    first.join()

    wait_until(lambda: wanted.entry)
    assert not gone.entry
    assert redis.xlen(keys.asks("m")) == 2


def test_a_full_lane_and_a_redis_that_is_away_are_said(sender: HeldSender, redis: Redis) -> None:
    small = HeldSender(redis, max_waiting=1)
    small.send(make())
    refused = make()
    small.send(refused)
    assert isinstance(refused.future.exception(timeout=20), LaneFull)

    with connect(f"redis://127.0.0.1:{free_port()}/0") as away:
        lost = make()
        HeldSender(away).send(lost)
        assert isinstance(lost.future.exception(timeout=20), RedisAway)


def test_what_nobody_thought_of_is_the_error_of_those_it_met_and_the_next_are_sent(
    sender: HeldSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hold_one(sender)
    met, call = make(), sender._call

    def bug(waiting: Waiting) -> Any:
        if waiting is met:
            raise RuntimeError("a bug")
        return call(waiting)

    sender.send(met)
    with monkeypatch.context() as patched:
        patched.setattr(sender, "_call", bug)
        sender.gate.set()
        assert isinstance(met.future.exception(timeout=20), UmekomiError)
    first.join()

    later = make()
    sender.send(later)
    wait_until(lambda: later.entry)
