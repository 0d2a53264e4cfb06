"""A source as a submission names it: a file of the caller's, or a URL that this server may read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import InvalidParameter, NotFound
from shared.files import FileStore, content_name
from shared.intake.reading import format_of_name
from shared.jobs.job import Source
from shared.locations import check_allowed
from shared.settings import Settings
from web.native import JobFields


def read_source(given: Mapping[str, Any], fields: JobFields, settings: Settings, files: FileStore, owner: str) -> Source:
    """What `input_file_id` or `input_url` names. Raises InvalidParameter, NotFound if the owner has no such file."""
    file_id = None
    if given.get("input_file_id") is not None:
        file_id = _text(given, "input_file_id")
        try:
            filename = files.get(file_id, owner).filename
        except NotFound:
            raise NotFound("input_file_id: no such file", param="input_file_id") from None
        url = content_name(file_id)
    else:
        url = filename = check_allowed(_text(given, "input_url"), settings.input_roots, "input_url")
    named, compression = format_of_name(filename)
    columns = {"text": fields.text_column, "id": fields.id_column}
    return Source(
        url=url,
        format=fields.format or named,
        compression=compression,
        columns={name: column for name, column in columns.items() if column is not None},
        metadata_columns=None if fields.metadata_columns is None else tuple(fields.metadata_columns),
        delimiter=fields.delimiter,
        file_id=file_id,
    )


def _text(given: Mapping[str, Any], param: str) -> str:
    if type(given[param]) is not str or not given[param]:
        raise InvalidParameter(f"{param}: must be a string", param=param, code="invalid_type")
    return str(given[param])
