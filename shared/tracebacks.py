"""Tracebacks for the log: where it happened and of what kind it was, and what it says only where that quotes no text."""

from __future__ import annotations

import sys
import traceback
from typing import Any, TextIO

from redis.exceptions import RedisError

from shared.errors import UmekomiError

# Of the system, of a device, of code. Others (ValueError, KeyError, pydantic's, Arrow's) quote what they were given.
_TELLING = (UmekomiError, RedisError, OSError, RuntimeError, ImportError, AttributeError, NameError, MemoryError, AssertionError)
# A chain of so many errors has said enough.
_MAX_CHAIN = 8


def told(error: BaseException) -> str:
    """The traceback of an error and of those that led to it, as Python writes it; no local variables."""
    chain: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(chain) < _MAX_CHAIN:
        seen.add(id(current))
        chain.append(_one(current))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\nwhich led to:\n".join(reversed(chain))


def render(_logger: Any, _method: str, event: Any) -> Any:
    """structlog's processor: `exc_info` becomes `exception`, a string."""
    given = event.pop("exc_info", None)
    error = _error(given)
    if error is not None:
        event["exception"] = told(error)
    return event


def write(sink: TextIO, exc_info: Any) -> None:
    """The same for structlog's console."""
    error = _error(exc_info)
    if error is not None:
        sink.write("\n" + told(error))


def _error(given: Any) -> BaseException | None:
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple):
        found: BaseException | None = given[1]
        return found
    return sys.exc_info()[1] if given else None


def _one(error: BaseException) -> str:
    message = str(error) if isinstance(error, _TELLING) else ""
    return "".join(traceback.format_tb(error.__traceback__)) + type(error).__name__ + (f": {message}" if message else "")
