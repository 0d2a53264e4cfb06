"""Redis scripts, run by their digests: a script travels once, then 40 characters do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from shared.redis_line import Command, Line


@cache
def _digest(script: str) -> str:
    return sha1(script.encode()).hexdigest()


Call = tuple[Sequence[str], Sequence[Any]]  # keys, arguments


def run_script(redis: Redis | Line, script: str, calls: Sequence[Call]) -> list[Any]:
    """The script once for each call, by its digest, in one round trip; a second one where it is new.

    Raises RedisError if Redis is away, and that of a call that Redis refused.
    """
    commands = [("EVALSHA", _digest(script), len(keys), *keys, *args) for keys, args in calls]
    answers = _send(redis, commands)
    unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
    if unknown:
        _send(redis, [("SCRIPT LOAD", script)])
        for number, answer in zip(unknown, _send(redis, [commands[number] for number in unknown]), strict=True):
            answers[number] = answer
    for answer in answers:
        if isinstance(answer, RedisError):
            raise answer
    return answers


def _send(redis: Redis | Line, commands: Sequence[Command]) -> list[Any]:
    if isinstance(redis, Line):
        return redis.call_each(commands)
    if len(commands) == 1:  # one command needs no pipeline
        try:
            return [redis.execute_command(*commands[0])]  # type: ignore[no-untyped-call]
        except ResponseError as error:
            return [error]
    pipeline = redis.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
    return list(pipeline.execute(raise_on_error=False))
