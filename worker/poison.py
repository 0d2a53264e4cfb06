"""Which rows of a shard to run next when running it kills the worker: halves, until the poison row is alone; pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

# Rows [first, last) of a shard.
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """Spans to run, in order, and rows that are given up."""

    spans: list[Span] = field(default_factory=list)
    poison: list[int] = field(default_factory=list)


def plan(rows: int, crashes: Mapping[Span, int], finished: Collection[Span], max_attempts: int) -> Plan:
    """What is left of a shard of `rows` rows, given how often each span crashed and which ones ended well.

    The whole shard and a single row are tried `max_attempts` times, since a crash may have another cause (a deployment,
    a neighbour in the same process); a part between is halved after its first.
    """
    found = Plan()

    def look(span: Span) -> None:
        first, last = span
        if span in finished or first == last:
            return
        allowed = max_attempts if span == (0, rows) or last - first == 1 else 1
        if crashes.get(span, 0) < allowed:
            found.spans.append(span)
        elif last - first == 1:
            found.poison.append(first)
        else:
            middle = (first + last) // 2
            look((first, middle))
            look((middle, last))

    look((0, rows))
    return found
