"""Tracebacks of the log: where and what kind, and no word of anybody's text."""

from __future__ import annotations

import io

import pydantic
import pytest

from shared import tracebacks
from shared.errors import StorageAway

TEXT = "somebody's text"


class Fields(pydantic.BaseModel):
    count: int


def raised(make: BaseException) -> BaseException:
    try:
        raise make
    except BaseException as error:
        return error


def test_what_quotes_its_input_is_told_by_place_and_kind_alone() -> None:
    with pytest.raises(pydantic.ValidationError) as wrong:
        Fields.model_validate({"count": TEXT})

    for error in (wrong.value, raised(KeyError(TEXT)), raised(ValueError(TEXT))):
        told = tracebacks.told(error)
        assert "somebody" not in told
        assert told.endswith(type(error).__name__)
        assert __file__ in told


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("CUDA error"), StorageAway("it is full")])
def test_what_the_system_says_is_told(error: Exception) -> None:
    assert str(error) in tracebacks.told(raised(error))


def test_what_led_to_an_error_is_told_first() -> None:
    try:
        try:
            raise OSError("the disk")
        except OSError as cause:
            raise RuntimeError("the shard") from cause
    except RuntimeError as error:
        told = tracebacks.told(error)

    assert told.index("the disk") < told.index("which led to") < told.index("the shard")


def test_errors_in_a_circle_end() -> None:
    first, second = raised(OSError("one")), raised(OSError("two"))
    first.__cause__, second.__cause__ = second, first

    assert tracebacks.told(first).count("OSError") == 2


def test_the_console_gets_the_same() -> None:
    sink, error = io.StringIO(), raised(ValueError(TEXT))

    tracebacks.write(sink, (type(error), error, error.__traceback__))

    assert sink.getvalue() == "\n" + tracebacks.told(error)
