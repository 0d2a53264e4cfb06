"""An upload as a request brings it: a streamed body of one of the formats, or a form whose file is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from flask import Request

from shared.errors import BadRequest, InvalidParameter
from shared.intake import FORMATS, Options, Record
from shared.intake.compression import Compression
from shared.intake.reading import (
    COMPRESSED_MEDIA_TYPES,
    format_of_media_type,
    format_of_name,
    read,
)
from shared.settings import Settings
from web import openai
from web.bodies import Body, media_type
from web.failures import WrongMediaType
from web.multipart import MULTIPART, Part, read_parts
from web.native import JobFields, read_job_query

# Every content type of a streamed body, for the document.
STREAMED = (
    *(media_type for known in FORMATS.values() for media_type in known.media_types[:1]),
    *COMPRESSED_MEDIA_TYPES,
    "application/octet-stream",
)
# What says nothing of the content: the format is asked for, or told from the first bytes.
_ANYTHING = "application/octet-stream"
_CHARSETS = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii"})
MAX_FORM_FIELDS = 64


@dataclass(frozen=True, slots=True)
class Upload:
    """A submission whose input is still to come: the blocks are read once."""

    fields: JobFields
    blocks: Iterator[bytes]
    parse: Callable[[Iterable[bytes]], Iterator[Record]]


def read_upload(request: Request, settings: Settings) -> Upload:
    """The parameters and the input of a request that is not JSON. Raises WrongMediaType, InvalidParameter, TooLarge."""
    kind = media_type(request)
    if kind == MULTIPART:
        return _read_form(request, settings)
    named = format_of_media_type(kind)
    compression = COMPRESSED_MEDIA_TYPES.get(kind)
    if named is None and compression is None and kind != _ANYTHING:
        formats = (each.media_types[0] for each in FORMATS.values() if each.media_types)
        known = ", ".join((openai.JSON, MULTIPART, *formats, *COMPRESSED_MEDIA_TYPES))
        raise WrongMediaType(f"Content-Type: must be one of {known}", param="Content-Type")
    if request.mimetype_params.get("charset", "").lower() not in _CHARSETS:
        raise WrongMediaType("Content-Type: the charset must be UTF-8", param="Content-Type")
    fields = read_job_query(request.args)
    if named is not None and fields.format not in (None, named):
        raise InvalidParameter(f"format: the Content-Type says {named}", param="format")
    if kind == "text/tab-separated-values" and fields.delimiter is None:
        fields = fields.model_copy(update={"delimiter": "\t"})
    return Upload(fields, _body(request, settings).blocks(), parser(fields, settings, named, compression))


def parser(
    fields: JobFields, settings: Settings, format_name: str | None, compression: Compression | None
) -> Callable[[Iterable[bytes]], Iterator[Record]]:
    """What makes records of an input's blocks, as the parameters want it; a `format` among them goes first."""
    options = Options(
        max_text_bytes=settings.max_text_bytes,
        max_bytes=settings.max_upload_bytes,
        text_column=fields.text_column,
        id_column=fields.id_column,
        metadata_columns=fields.metadata_columns,
        delimiter=fields.delimiter,
    )
    return lambda blocks: read(blocks, options, fields.format or format_name, compression)


def _body(request: Request, settings: Settings) -> Body:
    too_large = f"the body is over {settings.max_upload_bytes} bytes; submit it as several jobs"
    return Body(request, max_bytes=settings.max_upload_bytes, too_large=too_large)


def _read_form(request: Request, settings: Settings) -> Upload:
    """A form: its fields are parameters, beside those of the query string, and come before the file."""
    parts = read_parts(request, _body(request, settings).blocks())
    values = dict(request.args)
    for part in parts:
        if part.filename is not None or part.name == "file":
            break
        if len(values) >= MAX_FORM_FIELDS:
            raise BadRequest(f"the form has over {MAX_FORM_FIELDS} fields")
        values[part.name] = part.text()
    else:
        raise InvalidParameter("file: the form has no such part", param="file", code="missing_required_parameter")
    if part.name != "file":
        raise InvalidParameter(f"{part.name}: the part with the input is called `file`", param=part.name)
    fields = read_job_query(values)
    return Upload(fields, _file(part, parts), parser(fields, settings, *format_of_name(part.filename or "")))


def _file(part: Part, rest: Iterator[Part]) -> Iterator[bytes]:
    yield from part.content
    for late in rest:
        message = f"{late.name}: comes after the file; it must come before, since the file is read while it comes"
        raise InvalidParameter(message, param=late.name)
