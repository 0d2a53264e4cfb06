"""Finding: one line of the doctor's: what was looked at, how it is, and what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]
_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`advice` says what to change; "" if nothing has to be."""

    level: Level
    about: str
    message: str
    advice: str = ""


def ok(about: str, message: str) -> Finding:
    """As it should be."""
    return Finding(level="ok", about=about, message=message)


def warn(about: str, message: str, advice: str) -> Finding:
    """It works, and may not for long, or not well."""
    return Finding(level="warn", about=about, message=message, advice=advice)


def fail(about: str, message: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(level="fail", about=about, message=message, advice=advice)


Check = Callable[[], Iterable[Finding]]


def run_check(about: str, check: Check) -> list[Finding]:
    """Whatever goes wrong in a check is a finding too; what it found before stays."""
    found: list[Finding] = []
    try:
        for each in check():
            found.append(each)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        found.append(warn(about, f"could not be looked at: {said}", "see whether it is as you mean it to be"))
    return found


def gib(count: float) -> str:
    """Bytes for people."""
    return f"{count / _GIB:,.1f} GiB" if count >= _GIB / 10 else f"{count / 2**20:,.0f} MiB"
