"""Logs: structlog and the standard library, set up once; one fact a line, never a text, a vector or a key.

Our own lines do not go through the standard library: a busy server writes one for each request, and its records, handlers and
formatters cost as much as the parsing of that request.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO

import orjson
import structlog

from shared import tracebacks
from shared.settings import Settings


def set_up(settings: Settings, process: str) -> None:
    """Send every logger of the process, ours and the libraries', through one formatter to standard error."""
    human = settings.log_format == "human" or (settings.log_format == "auto" and sys.stderr.isatty())

    def name_process(_logger: Any, _method: str, event: Any) -> Any:
        event.setdefault("process", process)
        return event

    stamps: list[Any] = [
        structlog.contextvars.merge_contextvars,
        name_process,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not human),
    ]
    written: list[Any] = (
        # The rich tracebacks print local variables, and those are texts, vectors and keys.
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=tracebacks.write)]
        if human
        else [tracebacks.render, structlog.processors.JSONRenderer(serializer=_to_json)]
    )
    lines = _Lines(sys.stderr)
    structlog.configure(
        processors=[*stamps, *written],
        logger_factory=lambda *_: lines,
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        cache_logger_on_first_use=False,  # a process sets up again, and means all of its loggers
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*stamps, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *written],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for noisy in ("httpx", "urllib3", "filelock", "fsspec", "botocore", "aiobotocore", "s3fs", "asyncio", "watchfiles"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    # Celery says of each task that it came and went; the shard's own line says more.
    for chatty in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


class _Lines:
    """Where our lines go. Whoever logs does not fail because nobody can read it: a full disk, a closed pipe."""

    def __init__(self, sink: TextIO) -> None:
        self._sink = sink

    def msg(self, line: str) -> None:
        try:
            self._sink.write(line + "\n")  # at once, or the lines of two threads could share one
            self._sink.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = exception = msg


def _to_json(event: Any, default: Callable[[Any], Any]) -> str:
    """A line of the log. A busy server writes a thousand of them a second, and orjson costs it a tenth."""
    try:
        return orjson.dumps(event, default=default, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # half a character, or an integer of more than 64 bits: neither is a reason to lose a line
        return json.dumps(event, default=default, sort_keys=True)


def get_logger(name: str) -> Any:
    """A structlog logger; call it with an event in the past tense and fields."""
    return structlog.stdlib.get_logger(name)
