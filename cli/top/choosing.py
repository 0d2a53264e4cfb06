"""What a key press means: which job is selected, which question is open, what is to be done. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cli.top.overview import Job

# Key -> what it does to the selected job.
ACTIONS = {"c": "cancel", "p": "pause", "r": "resume"}


@dataclass(frozen=True, slots=True)
class Action:
    """To be done to a job, once it was agreed to."""

    name: str
    job_id: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Where the person at the keyboard is."""

    job_id: str | None = None  # the selected one
    asked: Action | None = None  # waits for y
    message: str = ""  # what came of the last one


def press(choice: Choice, key: str, jobs: Sequence[Job]) -> tuple[Choice, Action | None]:
    """After this key; the action is agreed to and not done yet."""
    if choice.asked is not None:
        return replace(choice, asked=None), choice.asked if key in ("y", "Y") else None
    ids = [job.id for job in jobs]
    at = ids.index(choice.job_id) if choice.job_id in ids else None
    if key in ("up", "k", "down", "j") and ids:
        step = -1 if key in ("up", "k") else 1
        to = 0 if at is None else max(0, min(len(ids) - 1, at + step))
        return replace(choice, job_id=ids[to], message=""), None
    if key in ACTIONS:
        if at is None:
            return replace(choice, message="select a job first: arrows, or j and k"), None
        if not jobs[at].is_yours:
            return replace(choice, message="this job belongs to another API key"), None
        return replace(choice, asked=Action(ACTIONS[key], ids[at]), message=""), None
    return choice, None
