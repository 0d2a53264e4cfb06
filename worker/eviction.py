"""Which models must go so that another one may come: a decision over what is loaded. No clock, no lock, no model.

A model that cannot be loaded beside the newcomer goes whatever else fits; then the least recently used go, those that
nobody uses first, until the newcomer fits. What is in use is only told to go: it leaves when its last user is done.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What may be loaded at a time; 0 is no bound."""

    max_models: int = 0
    max_memory_bytes: int = 0


NO_BOUNDS = Bounds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A model in memory, or one that is to come."""

    name: str
    memory_bytes: int = 0  # 0: not known
    groups: frozenset[str] = frozenset()  # no two models of one group side by side
    last_used: float = 0.0  # any clock; the smallest is the least recently used
    is_used: bool = False
    is_pinned: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The models that leave, in this order; or why there is no room, however long one waits."""

    leave: tuple[str, ...] = ()
    refused: str | None = None


def make_room(newcomer: Resident, residents: Iterable[Resident], bounds: Bounds) -> Plan:
    """What leaves so that `newcomer`, which is none of the residents, fits beside the rest. Pinned models never leave."""
    others = list(residents)
    foes = [other for other in others if other.groups & newcomer.groups]
    kept = [other for other in others if other not in foes]
    if pinned := [foe.name for foe in foes if foe.is_pinned]:
        return Plan(refused=f"{_names(pinned)} of the same concurrency group is pinned")
    if 0 < bounds.max_memory_bytes < newcomer.memory_bytes:
        takes, may = newcomer.memory_bytes, bounds.max_memory_bytes
        return Plan(refused=f"it takes {takes} bytes of memory, and all models together may take {may}")
    leave = sorted(foes, key=_first_to_go)
    for other in sorted((other for other in kept if not other.is_pinned), key=_first_to_go):
        if _fits(newcomer, kept, bounds):
            break
        kept.remove(other)
        leave.append(other)
    if not _fits(newcomer, kept, bounds):
        return Plan(refused=f"there is no room beside {_names([other.name for other in kept])}, which may not leave")
    return Plan(leave=tuple(other.name for other in leave))


def _first_to_go(resident: Resident) -> tuple[bool, float]:
    return resident.is_used, resident.last_used


def _fits(newcomer: Resident, kept: list[Resident], bounds: Bounds) -> bool:
    if 0 < bounds.max_models < len(kept) + 1:
        return False
    together = newcomer.memory_bytes + sum(other.memory_bytes for other in kept)
    return not 0 < bounds.max_memory_bytes < together


def _names(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
