"""Request bodies: read block by block, bounded while they are read, and unpacked within the same bound."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from flask import Request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected

from shared.errors import BadRequest, TooLarge
from shared.intake.compression import inflate, unpack
from web.failures import BrokenOff, TooSlow, WrongMediaType

_ENCODING = "Content-Encoding"
# Large enough that reading costs little beside parsing, small enough that 64 uploads side by side stay small.
BLOCK_BYTES = 2**20


class Body:
    """The body of a request, of which at most `max_bytes` are read; `too_large` says what to do instead.

    Raises TooLarge at once if the announced length is over the limit, WrongMediaType for an unknown Content-Encoding.
    """

    def __init__(self, request: Request, *, max_bytes: int, too_large: str) -> None:
        self._stream = request.stream
        self._length = request.content_length
        self._max_bytes = max_bytes
        self._too_large = too_large
        encoding = request.headers.get("Content-Encoding", "").strip().lower() or "identity"
        if encoding not in DECODERS:
            known = ", ".join(sorted(DECODERS))
            raise WrongMediaType(f"Content-Encoding: must be one of {known}", param="Content-Encoding")
        self._decode = DECODERS[encoding]
        if self._length is not None and self._length > max_bytes:
            raise TooLarge(too_large)

    def blocks(self) -> Iterator[bytes]:
        """The body, unpacked, in blocks. Raises TooLarge, BrokenOff, TooSlow, BadRequest if it cannot be unpacked."""
        return self._bounded(self._decode(self._bounded(self._received())))

    def read(self) -> bytes:
        """All of it."""
        return b"".join(self.blocks())

    def _bounded(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        seen_bytes = 0
        for block in blocks:
            seen_bytes += len(block)
            if seen_bytes > self._max_bytes:
                raise TooLarge(self._too_large)
            yield block

    def _received(self) -> Iterator[bytes]:
        received_bytes = 0
        while True:
            try:
                block = self._stream.read(BLOCK_BYTES)
            except (TimeoutError, BlockingIOError):
                raise TooSlow("the body did not come in time") from None
            except (OSError, ClientDisconnected):
                raise BrokenOff("the body ended before it was whole") from None
            except ParseException as error:
                raise BadRequest(f"the body is not well-formed chunks ({type(error).__name__})") from None
            if not block:
                break
            received_bytes += len(block)
            yield block
        # gunicorn gives what came before a client hung up as if it were all.
        if self._length is not None and received_bytes < self._length:
            raise BrokenOff("the body ended before it was whole")


def _identity(blocks: Iterator[bytes]) -> Iterator[bytes]:
    return blocks


# Content-Encoding -> how a body is unpacked.
DECODERS: dict[str, Callable[[Iterator[bytes]], Iterator[bytes]]] = {
    "identity": _identity,
    "gzip": lambda blocks: unpack(blocks, "gzip", param=_ENCODING),
    "x-gzip": lambda blocks: unpack(blocks, "gzip", param=_ENCODING),
    "deflate": lambda blocks: inflate(blocks, zlib.MAX_WBITS, "deflate", _ENCODING),
    "zstd": lambda blocks: unpack(blocks, "zstd", param=_ENCODING),
}


def media_type(request: Request) -> str:
    """The content type without its parameters, in lower case; "" if none was given."""
    return request.mimetype.lower()


JSON_TYPES = frozenset({"", "application/json", "text/json"})


def require_json(request: Request) -> None:
    """Raises WrongMediaType unless the body says it is JSON, or says nothing."""
    if media_type(request) not in JSON_TYPES:
        raise WrongMediaType("Content-Type: must be application/json", param="Content-Type")
