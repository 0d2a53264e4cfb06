"""Logs: structlog over the standard library, set up once; one fact a line, never a text, a vector or a key."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import Any

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
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=not human),
    ]
    renderer: Any = (
        # The rich tracebacks print local variables, and those are texts, vectors and keys.
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=tracebacks.write)
        if human
        else structlog.processors.JSONRenderer(serializer=_to_json)
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *stamps,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=stamps,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([] if human else [tracebacks.render]),
                renderer,
            ],
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


def _to_json(event: Any, default: Callable[[Any], Any]) -> str:
    """A line of the log. A busy server writes a thousand of them a second, and orjson costs it a tenth."""
    try:
        return orjson.dumps(event, default=default, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # half a character, or an integer of more than 64 bits: neither is a reason to lose a line
        return json.dumps(event, default=default, sort_keys=True)


def get_logger(name: str) -> Any:
    """A structlog logger; call it with an event in the past tense and fields."""
    return structlog.stdlib.get_logger(name)
