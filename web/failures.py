"""What a client gets when something goes wrong: one table from error to HTTP status, one body, one set of retry headers."""

from __future__ import annotations

import math
import traceback

import orjson
from flask import Flask, Response, has_request_context, request
from redis.exceptions import RedisError
from werkzeug.exceptions import HTTPException

from shared import errors, metrics
from shared.errors import BadRequest, RedisAway, UmekomiError, Unavailable
from shared.logs import get_logger
from web import ollama, openai

logger = get_logger(__name__)


class WrongMediaType(BadRequest):
    """The body is of a kind, or compressed in a way, that this route does not read."""

    code = "unsupported_media_type"


class BrokenOff(BadRequest):
    """The body ended before it was whole."""

    code = "incomplete_body"


class TooSlow(BadRequest):
    """The client sent nothing for too long."""

    code = "request_timeout"


class RangeNotSatisfiable(BadRequest):
    """The Range header asks for bytes behind the end of the file."""

    code = "range_not_satisfiable"


# The nearest class on the way up counts. Never 409: clients send a request again after it, and a finished job stays finished.
STATUS: dict[type[UmekomiError], int] = {
    UmekomiError: 500,
    errors.BadRequest: 400,
    errors.ModelNotFound: 404,
    errors.NotFound: 404,
    errors.TooLarge: 413,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.QuotaExceeded: 403,
    errors.Unavailable: 503,
    errors.LaneFull: 429,
    errors.RateLimited: 429,
    errors.ServerBusy: 429,
    WrongMediaType: 415,
    TooSlow: 408,
    RangeNotSatisfiable: 416,
}

# OpenAI's clients give up at once if told to wait for more than 120 s; haystack's time-out is 30 s.
MAX_RETRY_AFTER_S = 29.0
# A rate is known to the millisecond: less than the truth would have the client refused again.
MAX_RATE_RETRY_AFTER_S = 119.0

# What Flask and werkzeug refuse by themselves, in our words.
_SENTENCES = {
    404: ("there is no such route; GET / lists them", "not_found"),
    405: ("this route does not take this method", "method_not_allowed"),
    413: ("the body is too large", "request_too_large"),
    415: ("this route does not read this content type", "unsupported_media_type"),
}


def status_of(error: UmekomiError) -> int:
    """The HTTP status of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def answer(error: UmekomiError, status: int | None = None) -> Response:
    """The response that tells a client of the error."""
    status = status or status_of(error)
    metrics.ERRORS.inc(1, error.reason)
    is_ollama = has_request_context() and request.path.startswith(ollama.PREFIX)
    body = ollama.error_object(error.message) if is_ollama else openai.error_object(error, status)
    response = Response(orjson.dumps(body), status, content_type=openai.JSON)
    if isinstance(error, Unavailable):
        most_s = MAX_RATE_RETRY_AFTER_S if isinstance(error, errors.RateLimited) else MAX_RETRY_AFTER_S
        wait_s = min(max(error.retry_after_s, 0.001), most_s)
        response.headers["Retry-After"] = str(math.ceil(wait_s))
        response.headers["retry-after-ms"] = str(math.ceil(wait_s * 1000))
    elif isinstance(error, errors.EngineFailed):
        response.headers["x-should-retry"] = "false"  # the same text fails again
    elif status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def install(app: Flask) -> None:
    """Answer every error of every route, and those that Flask raises by itself."""

    def ours(error: UmekomiError) -> Response:
        return answer(error)

    def of_redis(error: RedisError) -> Response:
        return answer(RedisAway(f"Redis cannot be reached ({type(error).__name__})", retry_after_s=2))

    def of_http(error: HTTPException) -> Response:
        status = error.code or 500
        message, code = _SENTENCES.get(status, (error.name.lower(), "invalid_request" if status < 500 else "internal_error"))
        response = answer(UmekomiError(message, code=code), status)
        for name, value in error.get_headers(request.environ):
            if name not in ("Content-Type", "Content-Length"):
                response.headers[name] = value
        return response

    def unexpected(error: Exception) -> Response:
        # Where it happened, not what it says: a message may quote a text.
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("request failed unexpectedly", error=type(error).__name__, traceback=where)
        return answer(UmekomiError("something went wrong in the server; its log says what"))

    app.register_error_handler(UmekomiError, ours)
    app.register_error_handler(RedisError, of_redis)
    app.register_error_handler(HTTPException, of_http)
    app.register_error_handler(Exception, unexpected)
