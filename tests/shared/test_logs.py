"""Logs: one line a fact, ours and the libraries' alike, and never what somebody's local variables hold."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import orjson
import pytest
import structlog

from shared import logs
from shared.settings import Settings


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Logging is set up for the process: it is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    before = structlog.get_config()
    yield
    root.handlers[:], root.level = handlers, level
    structlog.configure(**before)
    structlog.contextvars.clear_contextvars()


class FullDisk(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")


def set_up(log_format: str, log_level: str = "info") -> None:
    logs.set_up(Settings(log_format=log_format, log_level=log_level), "web")  # type: ignore[arg-type]


def fail(secret: str) -> None:
    raise RuntimeError(f"it failed after {len(secret)} characters")


def test_json_is_a_line_a_fact_with_time_level_process_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("json")
    with structlog.contextvars.bound_contextvars(request="req_1"):
        logs.get_logger("shared.jobs").info("shard embedded", job="job_1", rows=5)

    (line,) = capsys.readouterr().err.splitlines()
    fields = orjson.loads(line)
    assert fields.pop("timestamp").endswith("Z")
    assert fields == {"event": "shard embedded", "job": "job_1", "rows": 5, "level": "info", "process": "web", "request": "req_1"}


def test_libraries_speak_through_the_same_formatter(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("json")
    logging.getLogger("kombu").warning("lost %s of %d", "one", 3, extra={"queue": "q"})

    fields = orjson.loads(capsys.readouterr().err)
    assert (fields["event"], fields["level"], fields["queue"], fields["process"]) == ("lost one of 3", "warning", "q", "web")


@pytest.mark.parametrize("log_format", ["json", "human"])
def test_an_exception_is_told_without_the_local_variables(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    set_up(log_format)
    for logger in (logs.get_logger("a"), logging.getLogger("b")):
        try:
            fail("-".join(("nobody's", "business")))  # not as it stands in a line of the traceback
        except RuntimeError:
            logger.exception("request failed")

    written = capsys.readouterr().err
    assert written.count("request failed") == 2
    assert written.count("RuntimeError: it failed after 17 characters") == 2
    assert "nobody's-business" not in written
    if log_format == "json":
        assert len(written.splitlines()) == 2


@pytest.mark.parametrize(("level", "lines"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_is_the_least_that_is_logged(capsys: pytest.CaptureFixture[str], level: str, lines: int) -> None:
    set_up("json", level)
    logger = logs.get_logger("a")
    for name in ("debug", "info", "warning", "error"):
        getattr(logger, name)("something happened")

    assert len(capsys.readouterr().err.splitlines()) == lines


def test_humans_get_a_line_they_can_read(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("human")
    logs.get_logger("a").warning("shard put off", job="job_1")

    (line,) = capsys.readouterr().err.splitlines()
    assert "warning" in line
    assert "shard put off" in line
    assert "job=job_1" in line
    assert "\x1b" not in line


def test_where_nobody_looks_auto_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("auto")
    logs.get_logger("a").info("started")

    assert orjson.loads(capsys.readouterr().err)["event"] == "started"


def test_setting_up_twice_does_not_say_things_twice(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("json")
    set_up("json")
    logs.get_logger("a").info("started")

    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("value", ["half a character: \ud800", 2**70])
def test_a_line_is_never_lost_for_what_stands_in_it(capsys: pytest.CaptureFixture[str], value: object) -> None:
    set_up("json")
    logs.get_logger("a").info("something odd", value=value)

    assert json.loads(capsys.readouterr().err)["value"] == value


def test_whoever_logs_does_not_fail_because_nobody_can_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    set_up("json")

    logs.get_logger("a").error("disk full")
