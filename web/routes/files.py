"""/v1/files: OpenAI's files, what batches read and write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated

import orjson
from flask import Blueprint, Response, request
from pydantic import Field

from shared.errors import InvalidParameter, NotFound, TooLarge
from shared.files import FileUpload, Order, StoredFile
from shared.jobs.store import digest_key
from web import downloads, openai
from web.batches import FILE_PURPOSE, MAX_EXPIRY_S, MIN_EXPIRY_S, FileForm, FileObject, file_object
from web.bodies import Body
from web.failures import RangeNotSatisfiable
from web.multipart import MULTIPART, Part, read_parts
from web.native import IDEMPOTENCY_KEY, read_idempotency_key, read_limit, read_number
from web.openapi import Parameter, Takes, describe
from web.parts import caller, parts

blueprint = Blueprint("files", __name__, url_prefix="/v1/files")

MAX_PAGE = 10_000
# Beside the file itself: boundaries, headers and the other fields.
MAX_EXTRA_BYTES = 2**20
MAX_FILENAME_CHARACTERS = 255
PIECE_BYTES = 256 * 1024


_OF_A_FILE = {"file_id": "as the upload gave it"}


@blueprint.post("")
@describe(
    takes=Takes(schema=FileForm, media_type=MULTIPART),
    returns=FileObject,
    fails=[InvalidParameter],
    headers=[IDEMPOTENCY_KEY],
)
def create() -> Response:
    """A file, streamed to storage; one that breaks off leaves nothing behind."""
    settings = parts().settings
    too_large = f"a file has at most {settings.max_file_bytes} bytes"
    body = Body(request, max_bytes=settings.max_file_bytes + MAX_EXTRA_BYTES, too_large=too_large)
    all_parts = read_parts(request, body.blocks())
    key = read_idempotency_key(request.headers.get("Idempotency-Key"))
    creation = parts().files.create(
        owner=caller().owner,
        expires_after_s=settings.files_expire_after_s or None,
        idempotency_key=None if key is None else digest_key(key),
    )
    with creation as upload:
        fields = {}
        for part in all_parts:
            if part.name == "file":
                if "file" in fields:
                    raise InvalidParameter("file: there is more than one", param="file")
                fields["file"] = ""
                content = parts().quotas.bounded(caller(), part.content, "file")
                _store(replace(part, content=content), upload, settings.max_file_bytes, too_large)
            else:
                fields[part.name] = part.text()
                _check_field(part.name, fields[part.name])
        _finish(upload, fields)
    return _answer(upload)


def _answer(upload: FileUpload) -> Response:
    """The file; with an idempotency key it may be an earlier one, of the same bytes. Raises InvalidParameter."""
    file = upload.file
    if file.content_digest is not None and file.content_digest != upload.digest.hexdigest():
        message = "Idempotency-Key: it was used for another file"
        raise InvalidParameter(message, param="Idempotency-Key", code="idempotency_key_reused")
    return _json(file_object(file))


def _store(part: Part, upload: FileUpload, max_bytes: int, too_large: str) -> None:
    if part.filename is None:
        raise InvalidParameter("file: the part has no filename, so it is no file", param="file")
    upload.filename = _clean(part.filename)
    for piece in part.content:
        upload.write(piece)
        if upload.bytes > max_bytes:
            raise TooLarge(too_large, param="file")


def _clean(filename: str) -> str:
    """The last component, without control characters: it comes back in a header."""
    name = "".join(each for each in filename.replace("\\", "/").rpartition("/")[2] if each.isprintable())
    return name[-MAX_FILENAME_CHARACTERS:] or "file"


def _check_field(name: str, value: str) -> None:
    """As soon as the field is there: what it says may save the transfer of the file. Raises InvalidParameter."""
    if name == "purpose" and value != FILE_PURPOSE:
        raise InvalidParameter(f"purpose: must be `{FILE_PURPOSE}`", param="purpose")
    if name == "expires_after[anchor]" and value != "created_at":
        raise InvalidParameter("expires_after.anchor: must be `created_at`", param="expires_after.anchor")
    if name == "expires_after[seconds]":
        seconds = read_number("expires_after.seconds", value)
        if not MIN_EXPIRY_S <= seconds <= MAX_EXPIRY_S:
            message = f"expires_after.seconds: must be {MIN_EXPIRY_S} to {MAX_EXPIRY_S}"
            raise InvalidParameter(message, param="expires_after.seconds")


def _finish(upload: FileUpload, fields: dict[str, str]) -> None:
    for name in ("file", "purpose"):
        if name not in fields:
            raise InvalidParameter(f"{name}: is required", param=name, code="missing_required_parameter")
    anchor, seconds = "expires_after[anchor]" in fields, "expires_after[seconds]" in fields
    if anchor != seconds:
        raise InvalidParameter("expires_after: needs both `anchor` and `seconds`", param="expires_after")
    if seconds:
        upload.expires_after_s = int(fields["expires_after[seconds]"])
    upload.purpose = fields["purpose"]


@blueprint.get("")
@describe(
    returns=openai.Page[FileObject],
    query=[
        Parameter("limit", Annotated[int, Field(ge=1, le=MAX_PAGE)], f"entries of a page, {MAX_PAGE} if not given"),
        Parameter("after", str, "the id of the last file of the page before"),
        Parameter("order", Order, "by creation; desc, the newest first, if not given"),
        Parameter("purpose", str, "only files of this purpose"),
    ],
    fails=[NotFound],
)
def list_files() -> Response:
    """The caller's files, the newest first unless asked otherwise."""
    limit = read_limit(request.args.get("limit"), default=MAX_PAGE, most=MAX_PAGE)
    order: Order
    match request.args.get("order") or "desc":
        case "desc":
            order = "desc"
        case "asc":
            order = "asc"
        case _:
            raise InvalidParameter("order: must be `asc` or `desc`", param="order")
    files, has_more = parts().files.list(
        caller().owner,
        after=request.args.get("after") or None,
        limit=limit,
        order=order,
        purpose=request.args.get("purpose") or None,
    )
    return _json(openai.list_object([file_object(file) for file in files], has_more=has_more))


@blueprint.get("/<file_id>")
@describe(returns=FileObject, fails=[NotFound], path=_OF_A_FILE)
def get(file_id: str) -> Response:
    """The file as it stands."""
    return _json(file_object(_file(file_id)))


@blueprint.delete("/<file_id>")
@describe(returns=openai.Deleted, fails=[NotFound], path=_OF_A_FILE)
def delete(file_id: str) -> Response:
    """Remove it; a batch that has not read it yet fails."""
    file = _file(file_id)
    parts().files.delete(file)
    parts().quotas.forget(caller())
    return _json({"id": file.id, "object": "file", "deleted": True})


@blueprint.get("/<file_id>/content")
@describe(
    returns=downloads.returns("application/octet-stream"),
    fails=[NotFound, RangeNotSatisfiable],
    headers=downloads.RANGES,
    path=_OF_A_FILE,
)
def content(file_id: str) -> Response:
    """The bytes, or those that a Range header asks for; whatever the Accept header says."""
    file = _file(file_id)
    files = parts().files

    def write_from(begin: int) -> Iterator[bytes]:
        with files.open(file.id) as source:
            source.seek(begin)
            while piece := source.read(PIECE_BYTES):
                yield piece

    download = downloads.File(
        media_type="application/octet-stream",
        name=file.id,
        tag=file.id,  # its bytes never change
        write=lambda: write_from(0),
        length=lambda: file.bytes,
        write_from=write_from,
    )
    response = downloads.send(download, request, parts().lengths)
    response.headers.set("Content-Disposition", "attachment", filename=file.filename)
    return response


def _file(file_id: str) -> StoredFile:
    return parts().files.get(file_id, caller().owner)


def _json(body: Mapping[str, object]) -> Response:
    return Response(orjson.dumps(body), content_type=openai.JSON)
