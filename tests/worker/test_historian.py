"""Historian: the leader, and nobody else, writes down what was done."""

from __future__ import annotations

from dataclasses import replace

from redis import Redis

from shared.history import History
from shared.jobs.index import JobIndex
from shared.presence import LaneDone, PresenceBoard
from tests.web.support import worker
from worker.historian import Historian


def test_only_the_leader_writes_and_begins_with_its_second_look(redis: Redis) -> None:
    index, board, history = JobIndex(redis), PresenceBoard(redis), History(redis)
    here = replace(worker({}), done=(LaneDone(model="m", lane="bulk", texts=1, tokens=10),))
    board.announce(here)
    leader, other = (Historian(index, board, history, name) for name in ("leader", "other"))
    index.lead("leader", 60)

    leader.note()
    other.note()
    board.announce(replace(here, done=(LaneDone(model="m", lane="bulk", texts=4, tokens=50),)))
    other.note()
    leader.note()

    (step,) = history.read()
    assert (step.texts, step.tokens) == ({"bulk": 3}, {"bulk": 40})
    assert step.seconds > 0


def test_it_stops(redis: Redis) -> None:
    historian = Historian(JobIndex(redis), PresenceBoard(redis), History(redis), "w")
    historian.start()
    historian.stop()
