"""History: what workers did between two looks, kept for a while."""

from __future__ import annotations

from redis import Redis

from shared import keys
from shared.history import STEPS, History, Step, between, totals
from shared.presence import LaneDone, WorkerPresence


def worker(worker_id: str, *done: tuple[str, str, int, int]) -> WorkerPresence:
    told = tuple(LaneDone(model=model, lane=lane, texts=texts, tokens=tokens) for model, lane, texts, tokens in done)
    return WorkerPresence(id=worker_id, host="here", pid=1, device="cpu", started_at=0.0, shards_at_once=1, done=told)


def test_a_step_is_what_all_workers_did_more_than_before() -> None:
    before = totals([worker("a", ("m", "bulk", 10, 100)), worker("gone", ("m", "bulk", 5, 50))])
    after = totals([worker("a", ("m", "bulk", 14, 140), ("n", "bulk", 1, 9)), worker("new", ("m", "interactive", 2, 7))])
    step = between(before, after, at=1.0, seconds=5.0)
    assert step.texts == {"bulk": 5, "interactive": 2}
    assert step.tokens == {"bulk": 49, "interactive": 7}


def test_steps_come_back_oldest_first_and_are_bounded(redis: Redis) -> None:
    history = History(redis)
    for number in range(STEPS + 3):
        history.add(Step(at=float(number), seconds=5.0, texts={"bulk": number}, tokens={}))
    found = history.read()
    assert len(found) == STEPS
    assert (found[0].at, found[-1].at) == (3.0, STEPS + 2.0)
    assert redis.ttl(keys.HISTORY) > 0


def test_what_a_worker_does_travels_with_its_presence() -> None:
    here = worker("a", ("m", "bulk", 10, 100))
    assert WorkerPresence.from_json(here.to_json()) == here
