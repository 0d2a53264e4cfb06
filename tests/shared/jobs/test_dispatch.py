"""The dealing of shards: examples, then its promises under any stream of jobs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.jobs.dispatch import LONGEST_STRIDE, WEIGHTS, Dealt, RunningJob, deal
from shared.jobs.job import Priority

PRIORITIES = st.sampled_from(list(WEIGHTS))


@dataclass
class Submitted:
    """A job in the little world of these tests."""

    id: str
    priority: Priority
    created_at: float
    pending: list[int]
    position: float | None = None
    sent: list[int] = field(default_factory=list)


class World:
    """Deals rounds as the leader does: positions are kept, what is sent is pending no longer."""

    def __init__(self) -> None:
        self.jobs: dict[str, Submitted] = {}
        self.clock = 0.0
        self.order: list[str] = []  # the job of each shard sent

    def submit(self, shards: int, priority: Priority = "normal") -> Submitted:
        self.clock += 1
        job = Submitted(f"job{len(self.jobs):05d}", priority, self.clock, list(range(shards)))
        self.jobs[job.id] = job
        return job

    def deal(self, room: int) -> Dealt:
        running = [
            RunningJob(
                id=job.id,
                priority=job.priority,
                created_at=job.created_at,
                position=job.position,
                pending=job.pending[: max(room, 1)],
            )
            for job in self.jobs.values()
            if job.pending or job.sent
        ]
        dealt = deal(running, room)
        for job_id, shard in dealt.sends:
            job = self.jobs[job_id]
            job.pending.remove(shard)
            job.sent.append(shard)
            self.order.append(job_id)
        for job_id, position in dealt.positions.items():
            self.jobs[job_id].position = position
        return dealt

    def finish(self, job: Submitted) -> None:
        del self.jobs[job.id]


def test_nothing_is_dealt_from_nothing_or_into_no_room() -> None:
    assert deal([], 5).sends == []
    world = World()
    world.submit(3)
    assert world.deal(0).sends == []
    assert world.deal(-2).sends == []


def test_a_job_alone_gets_all_the_room_in_its_order() -> None:
    world = World()
    job = world.submit(10)

    assert world.deal(4).sends == [(job.id, shard) for shard in range(4)]


def test_equal_jobs_take_turns_the_older_first() -> None:
    world = World()
    first, second = world.submit(10), world.submit(10)

    world.deal(6)

    assert world.order == [first.id, second.id] * 3


@pytest.mark.parametrize("priority", WEIGHTS)
@pytest.mark.parametrize("huge", WEIGHTS)
def test_a_new_small_job_beside_a_huge_one_is_served_within_a_few_deals(huge: Priority, priority: Priority) -> None:
    world = World()
    world.submit(2000, huge)
    for _ in range(1000):
        world.deal(2)
    small = world.submit(1, priority)

    deals = 0
    while small.pending:
        world.deal(1)
        deals += 1

    assert deals <= 2 + WEIGHTS[huge] / WEIGHTS[priority]


def test_a_job_that_waited_long_for_its_last_shards_saves_up_no_turns() -> None:
    # given a job of which everything has been in flight for a long time, beside one that went on
    world = World()
    stuck, busy = world.submit(1), world.submit(2000)
    for _ in range(500):
        world.deal(2)

    # when its shard is lost and pending again, with a hundred more
    stuck.pending += range(1, 100)
    world.order.clear()
    world.deal(40)

    # then it shares, and does not catch up
    assert 15 <= Counter(world.order)[busy.id] <= 25


def test_a_new_job_is_not_held_to_the_standing_of_one_that_has_nothing_pending() -> None:
    world = World()
    world.submit(1)
    busy = world.submit(2000)
    for _ in range(500):
        world.deal(2)
    new = world.submit(2000)
    world.order.clear()

    world.deal(40)

    assert 15 <= Counter(world.order)[busy.id] <= 25
    assert new.id in world.order


def test_when_everything_is_in_flight_a_new_job_starts_beside_the_others() -> None:
    world = World()
    old = world.submit(100)
    world.deal(100)
    new = world.submit(100)
    world.deal(10)
    old.pending += range(100, 200)
    world.order.clear()

    world.deal(40)

    assert 13 <= Counter(world.order)[new.id] <= 27


@given(
    shards=st.lists(st.tuples(PRIORITIES, st.integers(0, 8), st.none() | st.floats(0, 1e9)), max_size=8),
    room=st.integers(-3, 40),
)
def test_no_shard_is_dealt_twice_and_the_room_is_kept_and_used(
    shards: list[tuple[Priority, int, float | None]], room: int
) -> None:
    jobs = [
        RunningJob(id=f"j{n}", priority=priority, created_at=n, position=position, pending=list(range(n, n + count)))
        for n, (priority, count, position) in enumerate(shards)
    ]

    dealt = deal(jobs, room)

    assert len(dealt.sends) == len(set(dealt.sends)) == max(0, min(room, sum(len(job.pending) for job in jobs)))
    for job in jobs:
        sent = [shard for job_id, shard in dealt.sends if job_id == job.id]
        assert sent == list(job.pending)[: len(sent)]
    assert set(dealt.positions) == {job.id for job in jobs}


@given(shards=st.lists(st.tuples(PRIORITIES, st.integers(0, 5)), max_size=6), room=st.integers(0, 20), data=st.data())
def test_the_outcome_does_not_depend_on_the_order_in_which_jobs_are_named(
    shards: list[tuple[Priority, int]], room: int, data: st.DataObject
) -> None:
    jobs = [
        RunningJob(id=f"j{n}", priority=priority, created_at=n, position=None if n % 2 else 3.0, pending=list(range(count)))
        for n, (priority, count) in enumerate(shards)
    ]
    assert deal(jobs, room) == deal(data.draw(st.permutations(jobs)), room)


@given(priorities=st.lists(PRIORITIES, min_size=1, max_size=6), room=st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_over_a_long_run_shares_follow_the_weights(priorities: list[Priority], room: int) -> None:
    world = World()
    jobs = [world.submit(400, priority) for priority in priorities]
    while len(world.order) < 300:
        world.deal(room)

    counts = Counter(world.order)
    whole = sum(WEIGHTS[job.priority] for job in jobs)
    for job in jobs:
        assert abs(counts[job.id] - len(world.order) * WEIGHTS[job.priority] / whole) <= 5


@given(arrivals=st.lists(st.integers(0, 6), min_size=1, max_size=5), room=st.integers(1, 3), priority=PRIORITIES)
@settings(max_examples=30, deadline=None)
def test_no_job_starves_however_many_of_its_priority_arrive(arrivals: list[int], room: int, priority: Priority) -> None:
    world = World()
    old = world.submit(60 * 3, priority)  # never without something pending
    waited, waits_at_most = 0, 2
    for turn in range(60):
        for _ in range(arrivals[turn % len(arrivals)]):
            world.submit(3, priority)
        for job_id, _ in world.deal(room).sends:
            waited += 1
            if job_id == old.id:
                # Before its next turn come at most those that are there now, once each: none that arrives from now on.
                waited, waits_at_most = 0, len(world.jobs) + room
        assert waited <= waits_at_most


@given(priorities=st.lists(PRIORITIES, min_size=2, max_size=8), room=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_between_two_turns_of_a_job_no_other_gets_more_than_its_weight_allows(priorities: list[Priority], room: int) -> None:
    world = World()
    jobs = [world.submit(200, priority) for priority in priorities]
    while len(world.order) < 300:
        world.deal(room)

    for job in jobs:
        turns = [number for number, job_id in enumerate(world.order) if job_id == job.id]
        for turn, following in itertools.pairwise(turns):
            between = Counter(world.order[turn + 1 : following])
            for other in between:
                assert between[other] <= WEIGHTS[world.jobs[other].priority] / WEIGHTS[job.priority] + 1


@given(
    steps=st.lists(
        st.one_of(st.tuples(st.just("submit"), st.integers(1, 20), PRIORITIES), st.tuples(st.just("deal"), st.integers(1, 6))),
        min_size=1,
        max_size=60,
    )
)
@settings(deadline=None)
def test_jobs_with_something_pending_stay_within_a_stride_of_each_other(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    world = World()
    for step in steps:
        if step[0] == "submit":
            world.submit(step[1], step[2])
        else:
            dealt = world.deal(step[1])
            standing = [dealt.positions[job.id] for job in world.jobs.values() if job.pending]
            assert not standing or max(standing) - min(standing) <= LONGEST_STRIDE + 1e-9
    positions = [job.position for job in world.jobs.values() if job.position is not None]
    assert max(positions, default=0.0) <= (len(world.order) + len(world.jobs)) * LONGEST_STRIDE


def test_positions_stay_exact_after_a_billion_shards() -> None:
    jobs: Callable[[float], list[RunningJob]] = lambda start: [  # noqa: E731
        RunningJob(id=priority, priority=priority, created_at=0, position=start, pending=range(1000)) for priority in WEIGHTS
    ]
    assert deal(jobs(0.0), 700).sends == deal(jobs(2.0**30), 700).sends
