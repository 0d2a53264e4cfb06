"""A request that waits for a worker: its body read, its texts checked by name, and the ask that it becomes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from flask import request
from redis.exceptions import RedisError

from shared.errors import InvalidParameter, ModelNotFound
from shared.ids import new_id
from shared.interactive import Answer, Ask
from shared.jobs.wire import JOBS
from shared.models import ModelConfig
from shared.openai import MAX_TOKEN_ID, read_object
from web.bodies import Body, require_json
from web.parts import parts


def read_json(*, any_type: bool = False) -> dict[str, Any]:
    """The JSON object in the body; `any_type`: whatever the Content-Type says. Raises BadRequest, TooLarge, WrongMediaType."""
    if not any_type:
        require_json(request)
    most = parts().settings.max_request_bytes
    too_large = f"the body is over {most} bytes; submit large inputs as a job: POST {JOBS}"
    return read_object(Body(request, max_bytes=most, too_large=too_large).read())


def read_texts(param: str, value: Any, *, may_be_empty: bool = False) -> list[str]:
    """A text, or a list of texts, within the limits. Raises InvalidParameter, which never quotes one."""
    settings = parts().settings
    texts = [value] if type(value) is str else value
    if type(texts) is not list:
        raise _wrong(param, "must be a string or a list of strings", "invalid_type")
    if not texts:
        raise _wrong(param, "must not be empty")
    if len(texts) > settings.max_inputs:
        raise _wrong(param, f"at most {settings.max_inputs} in one request, got {len(texts)}")
    most = settings.max_text_bytes
    for position, text in enumerate(texts):
        if type(text) is not str:
            raise _wrong(param, f"position {position} is not a string", "invalid_type")
        if not text and not may_be_empty:
            raise _wrong(param, f"the text at position {position} is empty")
        if len(text) * 4 > most and len(text.encode()) > most:
            raise _wrong(param, f"the text at position {position} is over {most} bytes")
    return texts


def read_ids(param: str, value: Any) -> tuple[list[list[int]], bool]:
    """Token ids, or a list of such lists, and whether it was one. Raises InvalidParameter."""
    settings = parts().settings
    if type(value) is not list:
        raise _wrong(param, "must be a list of token ids", "invalid_type")
    are_many = bool(value) and type(value[0]) is list
    lists: list[list[int]] = value if are_many else [value]
    if len(lists) > settings.max_inputs:
        raise _wrong(param, f"at most {settings.max_inputs} in one request, got {len(lists)}")
    for position, ids in enumerate(lists):
        if type(ids) is not list or not set(map(type, ids)) <= {int}:
            raise _wrong(param, f"position {position} is not a list of integers", "invalid_type")
        if len(ids) > settings.max_text_bytes or (ids and not 0 <= min(ids) <= max(ids) <= MAX_TOKEN_ID):
            raise _wrong(param, f"the token ids at position {position} are out of range")
    return lists, are_many


def one_of(given: dict[str, Any], *names: str) -> str:
    """Which of several names for the same thing a body uses. Raises InvalidParameter unless it is exactly one."""
    found = [name for name in names if given.get(name) is not None]
    if not found:
        raise _wrong(names[0], "is required", "missing_required_parameter")
    if len(found) > 1:
        raise _wrong(found[1], f"give either {found[0]} or {found[1]}, not both")
    return found[0]


def reranker(name: str | None) -> ModelConfig:
    """The model of this name; without one, the first reranker there is. Raises ModelNotFound."""
    registry = parts().registry
    if name:
        return registry.get(name)
    told = _told_by_workers()
    found = [config for config in registry if config.reranking or config.name in told]
    if not found:
        raise ModelNotFound("no reranker is served here; an entry says `reranking: true`", param="model")
    return next((config for config in found if config.default), found[0])


def ask(model: ModelConfig, texts: Sequence[str] = (), **wanted: Any) -> Answer:
    """What a worker answers, within the time that a client waits. Raises whatever AskClient.ask does."""
    deadline = time.time() + parts().settings.interactive_timeout_s
    return parts().asks.ask(Ask(id=new_id(), model=model.name, deadline=deadline, texts=texts, **wanted))


def _told_by_workers() -> set[str]:
    """The models of which a live worker says that they are rerankers: an entry need not."""
    try:
        workers = parts().presence.workers()
    except RedisError:
        return set()
    return {name for worker in workers for name, model in worker.models.items() if model.kind == "rerank"}


def _wrong(param: str, message: str, code: str | None = None) -> InvalidParameter:
    return InvalidParameter(f"{param}: {message}", param=param, code=code)
