"""What can go wrong, as one tree that web, worker and cli share.

UmekomiError
├── BadRequest                the request is wrong; sending it again changes nothing
│   ├── InvalidParameter      a parameter has a wrong type or value; `param` names it
│   ├── ContextLengthExceeded a text is longer than the model reads and the model says `truncate: error`
│   ├── ModelNotFound         no served model has this name
│   ├── NotFound              no such job, file, batch or route (or it belongs to somebody else)
│   ├── TooLarge              the body, the number of inputs or the upload is over a limit
│   ├── Conflict              the thing is not in a state in which this can be done
│   ├── Unauthorized          no API key, or not one of ours
│   ├── Forbidden             the API key's role does not reach this route
│   └── QuotaExceeded         the key stores as many bytes as it may
├── Unavailable               nothing is wrong with the request; the same one will work later
│   ├── LaneFull              more is waiting in the interactive lane than the settings allow
│   ├── RateLimited           the key used up its requests or tokens of this minute, or its places for running jobs
│   ├── ServerBusy            as many requests of this kind are in progress as this process answers at once
│   ├── NoWorker              no live worker serves this model
│   ├── ModelNotReady         a worker is there but its model is loading, or failed to load
│   ├── DeadlinePassed        the answer did not come in time; the ask was dropped unrun or its answer thrown away
│   ├── RedisAway             Redis cannot be reached
│   └── StorageAway           storage cannot be reached or is full
└── EngineFailed              the model raised on this text
"""

from __future__ import annotations

from typing import ClassVar, Literal


class UmekomiError(Exception):
    """Anything that umekomi says is wrong: a sentence for a person, a stable code for a program."""

    code: ClassVar[str] = "internal_error"
    may_retry: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        # A subclass may carry a finer code of the wire format (OpenAI's `invalid_type`, `empty_file`, …).
        self.reason = code or self.code


class BadRequest(UmekomiError):
    """The request is wrong; sending it again changes nothing."""

    code = "invalid_request"


class InvalidParameter(BadRequest):
    """A parameter has a wrong type or value; `param` names it."""

    code = "invalid_value"


class ContextLengthExceeded(BadRequest):
    """A text is longer than the model reads and the model says `truncate: error`."""

    code = "context_length_exceeded"


class ModelNotFound(BadRequest):
    """No served model has this name."""

    code = "model_not_found"


class NotFound(BadRequest):
    """No such job, file, batch or route, or it belongs to somebody else."""

    code = "not_found"


class TooLarge(BadRequest):
    """The body, the number of inputs or the upload is over a limit."""

    code = "request_too_large"


class Conflict(BadRequest):
    """The thing is not in a state in which this can be done."""

    code = "invalid_state"


class Unauthorized(BadRequest):
    """No API key, or not one of ours."""

    code = "invalid_api_key"


class Forbidden(BadRequest):
    """The API key's role does not reach this route."""

    code = "insufficient_permissions"


class QuotaExceeded(BadRequest):
    """The key stores as many bytes as it may; deleting files and jobs makes room."""

    code = "insufficient_quota"


class Unavailable(UmekomiError):
    """Nothing is wrong with the request; the same one will work later."""

    code = "unavailable"
    may_retry = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class LaneFull(Unavailable):
    """More is waiting in the interactive lane than the settings allow."""

    code = "lane_full"


class RateLimited(Unavailable):
    """The key used up its requests or tokens of this minute, or its places for running jobs; `what` says which."""

    code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        what: Literal["requests", "tokens", "jobs"] = "requests",
        retry_after_s: float = 1.0,
        param: str | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s, param=param)
        self.what = what


class ServerBusy(Unavailable):
    """As many requests of this kind are in progress as this process answers at once."""

    code = "server_busy"


class NoWorker(Unavailable):
    """No live worker serves this model."""

    code = "no_worker"


class ModelNotReady(Unavailable):
    """A worker is there but its model is loading, or failed to load."""

    code = "model_not_ready"


class DeadlinePassed(Unavailable):
    """The answer did not come in time."""

    code = "deadline_passed"


class RedisAway(Unavailable):
    """Redis cannot be reached."""

    code = "redis_unavailable"


class StorageAway(Unavailable):
    """Storage cannot be reached, or is full."""

    code = "storage_unavailable"


class EngineFailed(UmekomiError):
    """The model raised on this text."""

    code = "engine_failed"


def _tree(root: type[UmekomiError]) -> list[type[UmekomiError]]:
    return [root, *(found for child in root.__subclasses__() for found in _tree(child))]


BY_CODE: dict[str, type[UmekomiError]] = {error.code: error for error in _tree(UmekomiError)}


def to_wire(error: UmekomiError) -> dict[str, str | None]:
    """What an answer or an error row says of it: {code, reason, message, param}."""
    return {"code": error.code, "reason": error.reason, "message": error.message, "param": error.param}


def from_wire(wire: dict[str, str | None]) -> UmekomiError:
    """The error that `to_wire` wrote; a code of a newer version becomes the root."""
    error = BY_CODE.get(str(wire.get("code")), UmekomiError)(str(wire.get("message")), param=wire.get("param"))
    error.reason = str(wire.get("reason") or error.code)
    return error
