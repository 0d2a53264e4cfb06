"""multipart/form-data, part by part as it comes: no part is ever in memory or in a temporary file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Event, Field, File, MultipartDecoder, NeedData

from shared.errors import BadRequest
from web.bodies import BLOCK_BYTES, media_type
from web.failures import WrongMediaType

MULTIPART = "multipart/form-data"
# The headers of a part, or whatever stands before the first one.
MAX_HEADER_BYTES = 64 * 1024
# A field that is no file.
MAX_FIELD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """One part; its content is read before the next part is asked for."""

    name: str
    filename: str | None  # of a file
    content: Iterator[bytes]

    def text(self) -> str:
        """A short field. Raises BadRequest if it is long or not UTF-8."""
        value = bytearray()
        for piece in self.content:
            value += piece
            if len(value) > MAX_FIELD_BYTES:
                raise BadRequest(f"{self.name}: the field is over {MAX_FIELD_BYTES} bytes", param=self.name)
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise BadRequest(f"{self.name}: the field is not UTF-8", param=self.name) from None


def read_parts(request: Request, blocks: Iterator[bytes]) -> Iterator[Part]:
    """The parts of a body. Raises WrongMediaType at once unless it is multipart, BadRequest if it turns out not well-formed."""
    boundary = request.mimetype_params.get("boundary", "")
    if media_type(request) != MULTIPART or not boundary:
        raise WrongMediaType(f"Content-Type: must be {MULTIPART} with a boundary", param="Content-Type")
    return _parts(_events(boundary.encode("latin-1", "replace"), blocks))


def _parts(events: Iterator[Event]) -> Iterator[Part]:
    for event in events:
        if isinstance(event, Field | File):
            content = _content(events)
            if not isinstance(event.name, str):
                raise BadRequest("a part of the body has no name")
            yield Part(event.name, event.filename if isinstance(event, File) else None, content)
            for _ in content:
                pass  # whatever of it was not wanted


def _content(events: Iterator[Event]) -> Iterator[bytes]:
    for event in events:
        if isinstance(event, Data):
            if event.data:
                yield event.data
            if not event.more_data:
                return


def _events(boundary: bytes, blocks: Iterator[bytes]) -> Iterator[Event]:
    # Of a part's content the decoder keeps back less than a boundary: more than a block lies there only if something has no end.
    decoder = MultipartDecoder(boundary, max_form_memory_size=BLOCK_BYTES + MAX_HEADER_BYTES)
    try:
        for block in blocks:
            decoder.receive_data(block)
            while not isinstance(event := decoder.next_event(), NeedData):
                yield event
        decoder.receive_data(None)
        yield decoder.next_event()
    except (ValueError, RequestEntityTooLarge):
        raise BadRequest("the body is not well-formed multipart/form-data", code="invalid_multipart") from None
