"""The tree of errors: drawn as it is, and the same on both ends of a wire."""

from __future__ import annotations

import re

import pytest

from shared import errors
from shared.errors import BY_CODE, LaneFull, UmekomiError, Unavailable, from_wire, to_wire

CLASSES = list(BY_CODE.values())


def drawn() -> dict[str, str]:
    """Class -> parent, as the docstring draws it."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"([│ ]*)(?:├── |└── )?([A-Z]\w+)(?:$| {2,}| [a-z])", line)
        if found and hasattr(errors, found[2]):
            depth = len(found[1]) // 4 + ("── " in line)
            above[depth:] = [found[2]]
            parents[found[2]] = above[depth - 1] if depth else "Exception"
    return parents


def test_the_tree_is_drawn_as_it_is() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, UmekomiError)]

    assert drawn() == {error.__name__: error.__base__.__name__ for error in classes if error.__base__}


def test_every_error_has_a_code_of_its_own_and_says_when_it_is_raised() -> None:
    assert len({error.code for error in CLASSES}) == len(CLASSES)
    for error in CLASSES:
        assert error.__doc__
        assert re.fullmatch(r"[a-z_]+", error.code)
        assert error.may_retry == issubclass(error, Unavailable)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_survives_the_wire(kind: type[UmekomiError]) -> None:
    sent = kind("it did not work: 夕飯", param="input")

    received = from_wire(to_wire(sent))

    assert type(received) is kind
    assert (received.message, received.param, received.reason, str(received)) == (sent.message, "input", kind.code, sent.message)


def test_a_finer_code_survives_the_wire() -> None:
    assert from_wire(to_wire(errors.InvalidParameter("a", code="invalid_type"))).reason == "invalid_type"


@pytest.mark.parametrize("wire", [{"code": "of_a_newer_version", "message": "m"}, {}, {"code": None, "message": None}])
def test_what_a_newer_version_wrote_becomes_the_root(wire: dict[str, str | None]) -> None:
    assert type(from_wire(wire)) is UmekomiError


def test_errors_that_pass_tell_when_to_come_back() -> None:
    assert LaneFull("full", retry_after_s=3).retry_after_s == 3
    assert LaneFull("full").retry_after_s > 0
