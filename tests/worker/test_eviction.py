"""Who goes so that another model may come."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from worker.eviction import Bounds, Resident, make_room


def resident(name: str, last_used: float = 0.0, **fields: object) -> Resident:
    fields["groups"] = frozenset(fields.get("groups", ()))  # type: ignore[call-overload]
    return Resident(name=name, last_used=last_used, **fields)  # type: ignore[arg-type]


NEW = resident("new")
fields = {
    "memory_bytes": st.integers(0, 100),
    "groups": st.frozensets(st.sampled_from("ab")),
    "last_used": st.floats(0, 10),
    "is_used": st.booleans(),
    "is_pinned": st.booleans(),
}
newcomers = st.builds(Resident, name=st.just("new"), **fields)
rooms = st.lists(st.builds(Resident, name=st.uuids().map(str), **fields), max_size=6, unique_by=lambda found: found.name)
bounds = st.builds(Bounds, max_models=st.integers(0, 5), max_memory_bytes=st.integers(0, 250))


def test_the_least_recently_used_goes_first() -> None:
    plan = make_room(NEW, [resident("young", 3), resident("old", 1), resident("middle", 2)], Bounds(max_models=2))

    assert plan.leave == ("old", "middle")


def test_what_nobody_uses_goes_before_what_is_in_use() -> None:
    plan = make_room(NEW, [resident("busy", 1, is_used=True), resident("idle", 2)], Bounds(max_models=2))

    assert plan.leave == ("idle",)


def test_where_all_are_in_use_one_of_them_is_waited_for() -> None:
    plan = make_room(NEW, [resident("busy", 2, is_used=True), resident("older", 1, is_used=True)], Bounds(max_models=2))

    assert plan.leave == ("older",)


def test_where_all_are_pinned_there_is_no_room_and_the_reason_names_them() -> None:
    plan = make_room(NEW, [resident("p", is_pinned=True)], Bounds(max_models=1))

    assert plan.leave == ()
    assert "'p'" in (plan.refused or "")


def test_models_of_one_group_are_not_side_by_side() -> None:
    others = [resident("foe", groups="g"), resident("friend", groups="h")]

    assert make_room(resident("new", groups="g"), others, Bounds()).leave == ("foe",)
    assert make_room(resident("new", groups="g"), [replace(others[0], is_pinned=True)], Bounds()).refused is not None


def test_a_model_larger_than_the_whole_budget_drives_nobody_out() -> None:
    plan = make_room(resident("new", memory_bytes=11), [resident("m", memory_bytes=5)], Bounds(max_memory_bytes=10))

    assert plan.leave == ()
    assert "11 bytes" in (plan.refused or "")


@given(newcomers, rooms, bounds)
def test_a_plan_makes_room_and_touches_nothing_pinned(newcomer: Resident, others: list[Resident], bound: Bounds) -> None:
    plan = make_room(newcomer, others, bound)

    by_name = {other.name: other for other in others}
    leaving = [by_name[name] for name in plan.leave]
    assert len(set(plan.leave)) == len(plan.leave)
    assert not any(other.is_pinned for other in leaving)
    if plan.refused is not None:
        assert not leaving  # nobody goes for nothing
        return
    kept = [other for other in others if other not in leaving]
    assert not any(other.groups & newcomer.groups for other in kept)
    assert bound.max_models == 0 or len(kept) + 1 <= bound.max_models
    together = newcomer.memory_bytes + sum(other.memory_bytes for other in kept)
    assert bound.max_memory_bytes == 0 or together <= bound.max_memory_bytes


@given(newcomers, rooms, bounds)
def test_who_goes_was_used_before_whoever_stays(newcomer: Resident, others: list[Resident], bound: Bounds) -> None:
    plan = make_room(newcomer, others, bound)

    chosen = [other for other in others if other.name in plan.leave and not other.groups & newcomer.groups]
    stays = [other for other in others if other.name not in plan.leave and not other.is_pinned]
    if plan.refused is None:
        assert all((gone.is_used, gone.last_used) <= (kept.is_used, kept.last_used) for gone in chosen for kept in stays)


@given(newcomers, rooms, bounds)
def test_it_is_refused_only_if_the_pinned_ones_leave_no_room(newcomer: Resident, others: list[Resident], bound: Bounds) -> None:
    pinned = [other for other in others if other.is_pinned]

    assert (make_room(newcomer, others, bound).refused is None) == (make_room(newcomer, pinned, bound).refused is None)


@given(newcomers, rooms)
def test_without_bounds_only_the_group_goes(newcomer: Resident, others: list[Resident]) -> None:
    plan = make_room(replace(newcomer, groups=frozenset()), others, Bounds())

    assert plan.leave == ()
    assert plan.refused is None
