"""Parquet: a column of texts, one of ids, and the others as metadata; read some rows at a time."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shared.errors import StorageAway, TooLarge
from shared.intake.columns import choose
from shared.intake.records import (
    MAX_METADATA_BYTES,
    BadRecord,
    Options,
    Record,
    UnreadableInput,
    checked_id,
    metadata_json,
    too_long,
    utf8_bytes,
)

# Few enough that as many texts of the greatest length stay bearable, enough that a call of Arrow's costs little for each.
_BATCH_ROWS = 256
# Column chunks are read in pieces of this size, not whole.
_BUFFER_BYTES = 2**20


class FileBlocks:
    """A seekable file as blocks: whoever needs to seek in it takes `file` instead."""

    def __init__(self, file: BinaryIO, block_bytes: int = 2**20) -> None:
        self.file = file
        self._block_bytes = block_bytes

    def __iter__(self) -> Iterator[bytes]:
        while block := self.file.read(self._block_bytes):
            yield block


def parse(blocks: Iterable[bytes], options: Options) -> Iterator[Record]:
    """A record for each row; lines there are none. A stream is spooled first, to a file that has no name and cannot be left.

    Raises UnreadableInput if it is not Parquet, lacks the columns or is damaged, and StorageAway if it cannot be spooled.
    """
    if isinstance(blocks, FileBlocks):
        yield from _read(blocks.file, options)
        return
    with tempfile.TemporaryFile() as spool:
        size = 0
        for block in blocks:
            size += len(block)
            with _disk_full_told():
                spool.write(block)
        with _disk_full_told():
            spool.seek(0)
        if size:
            yield from _read(spool, options)


def _read(file: Any, options: Options) -> Iterator[Record]:
    with _damage_told():
        metadata = pq.read_metadata(file)
        leaves = [metadata.schema.column(number) for number in range(metadata.num_columns)]
        # Texts stay dictionaries if they were written as such: one long text, referred to a million times, is kept once.
        strings = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        source = pq.ParquetFile(file, metadata=metadata, read_dictionary=strings, buffer_size=_BUFFER_BYTES)
        columns = choose(source.schema_arrow.names, options)
        _check_types(source.schema_arrow, columns.text, columns.id)
        wanted = [columns.text, *([] if columns.id is None else [columns.id]), *columns.metadata]
        read = [
            number
            for number, leaf in enumerate(leaves)
            if any(leaf.path == name or leaf.path.startswith(f"{name}.") for name in wanted)
        ]
        _check_size(metadata, read, options)
        rows = _Rows(columns.text, columns.id, columns.metadata, options.max_text_bytes)
        batches = source.iter_batches(_BATCH_ROWS, columns=wanted, use_threads=False)
    while True:
        with _damage_told():
            batch = next(batches, None)
            records = None if batch is None else rows.records(batch)
        if records is None:
            return
        yield from records


def _check_size(metadata: pq.FileMetaData, leaves: Sequence[int], options: Options) -> None:
    """What the footer says that the pages of these columns unpack to. Raises TooLarge."""
    if options.max_bytes is None:
        return
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    unpacked_bytes = sum(group.column(leaf).total_uncompressed_size for group in groups for leaf in leaves)
    if unpacked_bytes > options.max_bytes:
        raise TooLarge(f"the input is over {options.max_bytes} bytes when unpacked; submit it as several jobs", param="input")


def _check_types(schema: pa.Schema, text: str, record_id: str | None) -> None:
    kind = _plain(schema.field(text).type)
    if not (_is_text(kind) or pa.types.is_null(kind)):
        raise UnreadableInput(f"text_column: {text!r} holds {kind}, not text", code="unknown_column", param="text_column")
    if record_id is not None:
        kind = _plain(schema.field(record_id).type)
        if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            message = f"id_column: {record_id!r} holds {kind}, neither text nor integers"
            raise UnreadableInput(message, code="unknown_column", param="id_column")


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    # Bytes too: older writers leave out that a column is UTF-8.
    return any(is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary))


class _Rows:
    """Makes records of batches."""

    def __init__(self, text: str, record_id: str | None, metadata: tuple[str, ...], max_text_bytes: int) -> None:
        self._text = text
        self._id = record_id
        self._metadata = metadata
        self._max_text_bytes = max_text_bytes

    def records(self, batch: pa.RecordBatch) -> list[Record]:
        """In the order of the rows."""
        texts = _values(batch[self._text], self._max_text_bytes)
        ids = [None] * len(batch) if self._id is None else _values(batch[self._id], MAX_METADATA_BYTES)
        kept = [_values(batch[name], MAX_METADATA_BYTES) for name in self._metadata]
        rows = zip(*kept, strict=True) if kept else [()] * len(batch)
        return [self._record(text, one_id, row) for text, one_id, row in zip(texts, ids, rows, strict=True)]

    def _record(self, text: Any, record_id: Any, metadata: tuple[Any, ...]) -> Record:
        checked: str | None = None
        try:
            checked = checked_id(_decoded(record_id, "id"))
            text = _decoded(text, "text")
            if text is _OVERLONG:
                raise too_long(self._max_text_bytes)
            if text is None:
                raise BadRecord("missing_required_parameter", "there is no text", "text")
            if not text:
                raise BadRecord("invalid_value", "the text is empty", "text")
            if len(text) * 4 > self._max_text_bytes and utf8_bytes(text) > self._max_text_bytes:
                raise too_long(self._max_text_bytes)
            return Record(None, checked, text, self._metadata_json(metadata) if metadata else None, None)
        except BadRecord as wrong:
            return Record(None, checked, None, None, wrong.json)

    def _metadata_json(self, values: tuple[Any, ...]) -> str:
        if any(value is _OVERLONG for value in values):
            raise BadRecord("invalid_value", f"the metadata is over {MAX_METADATA_BYTES} bytes", "metadata")
        found = dict(zip(self._metadata, values, strict=True))
        try:
            text = orjson.dumps(found, default=_as_json, option=orjson.OPT_NON_STR_KEYS)
        except orjson.JSONEncodeError:
            raise BadRecord("invalid_value", "the metadata cannot be written as JSON", "metadata") from None
        return metadata_json(orjson.loads(text))


# Stands for a value that is too long to be looked at.
_OVERLONG: Any = object()


def _values(column: pa.Array, max_bytes: int) -> list[Any]:
    """Python's values of a column; of a string that is too long only that it is."""
    if _is_text(column.type):
        column = column.dictionary_encode()
    is_long = []
    if pa.types.is_dictionary(column.type) and _is_text(column.type.value_type):
        over = pc.greater(pc.take(pc.binary_length(column.dictionary), column.indices), max_bytes)
        if pc.any(over).as_py():
            # Not by `take`, which makes room for as many values of the mean length.
            column = pa.DictionaryArray.from_arrays(pc.if_else(over, None, column.indices), column.dictionary)
            is_long = over.to_pylist()
        else:
            column = pc.take(column.dictionary, column.indices)
    values: list[Any] = column.to_pylist()
    return [_OVERLONG if long else value for value, long in zip(values, is_long, strict=True)] if is_long else values


def _decoded(value: Any, param: str) -> Any:
    if value is _OVERLONG and param == "id":
        raise BadRecord("invalid_value", "the id is too long", param)
    if type(value) is not bytes:
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRecord("invalid_encoding", f"the {param} is not UTF-8", param) from None


def _as_json(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


@contextmanager
def _damage_told() -> Iterator[None]:
    """pyarrow says of most damage that it is an OSError: told from a disk that fails by having no number."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise StorageAway(f"the input cannot be read: {error}", retry_after_s=5) from error
        raise UnreadableInput("the input is not Parquet, or damaged", code="invalid_parquet") from error


@contextmanager
def _disk_full_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageAway(f"the input cannot be spooled: {error.strerror}", retry_after_s=5) from error
