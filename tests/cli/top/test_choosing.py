from __future__ import annotations

import pytest

from cli.top.choosing import Action, Choice, press
from cli.top.keyboard import key_names
from cli.top.overview import Job

JOBS = [
    Job(id="job_1", kind="job", model="e5", status="in_progress", is_yours=True),
    Job(id="job_2", kind="job", model="e5", status="paused", is_yours=False),
]


def after(*keys: str, choice: Choice | None = None) -> tuple[Choice, Action | None]:
    choice, action = choice or Choice(), None
    for key in keys:
        choice, action = press(choice, key, JOBS)
    return choice, action


@pytest.mark.parametrize(
    ("keys", "selected"), [("j", "job_1"), ("jj", "job_2"), ("jjj", "job_2"), ("jjk", "job_1"), ("k", "job_1")]
)
def test_keys_move_over_the_jobs_and_stop_at_the_ends(keys: str, selected: str) -> None:
    assert after(*keys)[0].job_id == selected


@pytest.mark.parametrize(("key", "name"), [("c", "cancel"), ("p", "pause"), ("r", "resume")])
def test_an_action_is_asked_first_and_done_after_a_y_alone(key: str, name: str) -> None:
    asked, nothing = after("down", key)
    assert (asked.asked, nothing) == (Action(name, "job_1"), None)
    assert after("y", choice=asked)[1] == Action(name, "job_1")
    for other in ("n", "q", "down", key):
        left, action = after(other, choice=asked)
        assert (left.asked, action) == (None, None)


def test_a_job_of_somebody_else_and_no_job_at_all_are_left_alone() -> None:
    assert after("j", "j", "c")[0].asked is None
    choice, action = after("c")
    assert (choice.asked, action, bool(choice.message)) == (None, None, True)


def test_a_selected_job_that_ended_is_no_longer_acted_on() -> None:
    assert after("c", choice=Choice(job_id="job_9"))[0].asked is None


def test_keys_of_terminals_have_names() -> None:
    assert key_names(b"\x1b[A\x1bOBjq") == ["up", "down", "j", "q"]
    assert key_names(b"\x1b[5~") == []
