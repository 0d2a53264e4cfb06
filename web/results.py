"""A job's rows as a file: FORMATS names the writers, each of which streams a few thousand rows at a time.

Of a finished job a writer makes the same bytes every time: a download that broke off can go on at any of them.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shared.errors import Conflict, InvalidParameter
from shared.jobs.reading import Reading

# A row group of a Parquet answer holds about so many bytes of vectors.
ROW_GROUP_BYTES = 16 * 2**20
# JSONL leaves in pieces of about this size.
PIECE_BYTES = 256 * 1024

Dtype = Literal["float32", "float16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
_ARROW_TYPES: dict[Dtype, pa.DataType] = {"float32": pa.float32(), "float16": pa.float16()}

Matrix = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of result file; `write` makes its bytes, numbers as `dtype`.

    `length`: how many there will be, where that can be told beforehand; `write_from` makes those from a position on.
    """

    media_type: str
    extension: str
    write: Callable[[Reading, Dtype], Iterator[bytes]]
    length: Callable[[Reading, Dtype], int] | None = None
    write_from: Callable[[Reading, Dtype, int], Iterator[bytes]] | None = None


# JSONL


def write_jsonl(reading: Reading, dtype: Dtype) -> Iterator[bytes]:
    """A line a row: {id, index, embedding, tokens, truncated} or {id, index, line, error}, and its metadata if it has any."""
    return write_lines(reading.tables(), dtype)


def write_lines(tables: Iterable[pa.Table], dtype: Dtype = "float32") -> Iterator[bytes]:
    """The same of tables in the output's schema; without vectors if all rows are errors."""
    piece: list[bytes] = []
    size = 0
    for table in tables:
        for line in _lines(table, dtype):
            piece.append(line)
            size += len(line)
            if size >= PIECE_BYTES:
                yield b"".join(piece)
                piece, size = [], 0
    if piece:
        yield b"".join(piece)


def _lines(table: pa.Table, dtype: Dtype) -> Iterator[bytes]:
    columns = {name: table[name].to_pylist() for name in table.column_names if name != "vector"}
    vectors = _vectors(table, dtype)
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    for i in range(len(table)):
        row: dict[str, Any] = {"id": columns["id"][i], "index": columns["index"][i]}
        error = columns["error"][i]
        if error is None:
            row["embedding"] = next(vectors)
            row["tokens"] = columns["tokens"][i]
            row["truncated"] = columns["truncated"][i]
        else:
            row["line"] = columns["line"][i]
            row["error"] = orjson.Fragment(error)
        if columns["metadata"][i] is not None:
            row["metadata"] = orjson.Fragment(columns["metadata"][i])  # as the caller wrote it
        yield orjson.dumps(row, option=option)


def _vectors(table: pa.Table, dtype: Dtype) -> Iterator[Matrix]:
    """The vectors of the rows that have one, in order."""
    if "vector" not in table.column_names:
        return iter(())
    vectors = table["vector"].filter(pc.is_null(table["error"]))
    if not len(vectors):
        return iter(())
    return iter(_as(dtype, _flat(vectors).reshape(len(vectors), -1)))


def _flat(vectors: pa.ChunkedArray) -> Matrix:
    """The numbers of all vectors, one after the other; not copied if they lie so."""
    flat: Matrix = pc.list_flatten(vectors).to_numpy()
    return flat


def _as(dtype: Dtype, values: Matrix) -> Matrix:
    """The numbers in the type that was asked for; what float16 cannot hold is its largest number, not infinity."""
    if dtype == "float32":
        return np.ascontiguousarray(values, dtype=np.float32)
    largest = float(np.finfo(np.float16).max)
    return np.clip(values, -largest, largest).astype(np.float16)


# NumPy


def write_npy(reading: Reading, dtype: Dtype) -> Iterator[bytes]:
    """An .npy file [rows, dimensions], a row for each text; of a row that failed all numbers are NaN."""
    return write_npy_from(reading, dtype, 0)


def npy_length(reading: Reading, dtype: Dtype) -> int:
    """Bytes of the .npy file."""
    dimensions = reading.dimensions()
    return len(_npy_header(dtype, (reading.rows, dimensions))) + reading.rows * dimensions * np.dtype(dtype).itemsize


def write_npy_from(reading: Reading, dtype: Dtype, position: int) -> Iterator[bytes]:
    """The bytes of the .npy file from a position on; rows before it are not read."""
    dimensions = reading.dimensions()
    header = _npy_header(dtype, (reading.rows, dimensions))
    if position < len(header):
        yield header[position:]
    row_bytes = max(1, dimensions * np.dtype(dtype).itemsize)
    row, within = divmod(max(0, position - len(header)), row_bytes)
    for block in _matrices(reading.from_row(row), dtype, dimensions):
        content = block.tobytes()
        if within:
            content, within = content[within:], 0
        if content:
            yield content


def _matrices(reading: Reading, dtype: Dtype, dimensions: int) -> Iterator[Matrix]:
    for table in reading.tables(["index", "vector"]):
        yield _matrix(table["vector"], dtype, dimensions)


def _matrix(vectors: pa.ChunkedArray, dtype: Dtype, dimensions: int) -> Matrix:
    """[len(vectors), dimensions], NaN where there is no vector. Raises Conflict if the model was changed while the job ran."""
    lengths = pc.list_value_length(vectors).drop_null().to_numpy()
    if len(lengths) and (lengths != dimensions).any():
        raise Conflict("the job has vectors of different sizes; fetch them as jsonl or parquet", code="unequal_vectors")
    matrix = np.full((len(vectors), dimensions), np.nan, dtype=dtype)
    if len(lengths):
        has_vector = vectors.is_valid().to_numpy()
        matrix[has_vector] = _as(dtype, _flat(vectors).reshape(-1, dimensions))
    return matrix


def _npy_header(dtype: Any, shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def write_npz(reading: Reading, dtype: Dtype) -> Iterator[bytes]:
    """What np.load reads without pickle: `vectors` as in .npy, and of each row `ids`, `index`, `tokens`, `truncated`.

    The arrays lie one after the other, so each is read from the job by itself: only its own columns.
    """
    rows, dimensions = reading.rows, reading.dimensions()
    outbox = _Outbox()

    def of(column: str, kind: str, missing: Any) -> tuple[np.dtype[Any], tuple[int, ...], Iterator[Any]]:
        return np.dtype(kind), (rows,), _column(reading, column, kind, missing)

    arrays = {
        "vectors": (np.dtype(dtype), (rows, dimensions), _matrices(reading, dtype, dimensions)),
        "ids": of("id", f"<U{_longest_id(reading)}", ""),
        "index": of("index", "<i8", 0),
        "tokens": of("tokens", "<i4", 0),
        "truncated": of("truncated", "|b1", False),
    }
    with zipfile.ZipFile(outbox, "w", zipfile.ZIP_STORED) as archive:
        for name, (kind, shape, blocks) in arrays.items():
            # A ZipInfo of our own: it has no time in it.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as sink:
                sink.write(_npy_header(kind, shape))
                for block in blocks:
                    sink.write(block.tobytes())
                    yield outbox.take()
    yield outbox.take()


def _column(reading: Reading, name: str, kind: str, missing: Any) -> Iterator[Any]:
    for table in reading.tables(["index"] if name == "index" else ["index", name]):
        yield np.array([missing if value is None else value for value in table[name].to_pylist()], dtype=kind)


def _longest_id(reading: Reading) -> int:
    """Characters; at least 1."""
    longest = 1
    for table in reading.tables(["index", "id"]):
        longest = max(longest, pc.max(pc.utf8_length(table["id"])).as_py() or 0)
    return longest


# Arrow and Parquet


class _Outbox:
    """A sink whose bytes are taken out as they come."""

    def __init__(self) -> None:
        self._written: list[bytes] = []
        self._position = 0
        self.closed = False

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._written.append(content)
        self._position += len(content)
        return len(content)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        taken = b"".join(self._written)
        self._written.clear()
        return taken


def _schema(embedding: pa.DataType) -> pa.Schema:
    return pa.schema(
        [
            pa.field("id", pa.string()),
            pa.field("index", pa.int64(), nullable=False),
            pa.field("embedding", embedding),
            pa.field("tokens", pa.int32()),
            pa.field("truncated", pa.bool_()),
            pa.field("metadata", pa.string()),
            pa.field("line", pa.int64()),
            pa.field("error", pa.string()),
        ]
    )


def _renamed(table: pa.Table, schema: pa.Schema, embedding: pa.Array | pa.ChunkedArray) -> pa.Table:
    columns = [embedding if name == "embedding" else table[name] for name in schema.names]
    return pa.Table.from_arrays(columns, schema=schema)


def write_parquet(reading: Reading, dtype: Dtype) -> Iterator[bytes]:
    """One Parquet file, a row group at a time; valid also when there is no row."""
    schema = _schema(pa.list_(_ARROW_TYPES[dtype]))
    outbox = _Outbox()
    sink = pa.PythonFile(outbox, mode="w")
    # Vectors: no dictionary and no statistics, which cost time and say nothing.
    with pq.ParquetWriter(
        sink, schema, compression="zstd", compression_level=1, use_dictionary=False, write_statistics=["id", "index"]
    ) as writer:
        group: list[pa.Table] = []
        size = 0
        for table in reading.tables():
            group.append(_renamed(table, schema, _lists(table["vector"], dtype)))
            size += group[-1].nbytes
            if size >= ROW_GROUP_BYTES:
                writer.write_table(pa.concat_tables(group), row_group_size=sum(map(len, group)))
                yield outbox.take()
                group, size = [], 0
        if group:
            writer.write_table(pa.concat_tables(group), row_group_size=sum(map(len, group)))
    yield outbox.take()


def _lists(vectors: pa.ChunkedArray, dtype: Dtype) -> pa.Array | pa.ChunkedArray:
    """The same lists with numbers of the other type."""
    if dtype == "float32":
        return vectors
    lengths = pc.fill_null(pc.list_value_length(vectors), 0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    missing = pa.array(vectors.is_null().to_numpy())
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(_as(dtype, _flat(vectors))), mask=missing)


def write_arrow(reading: Reading, dtype: Dtype) -> Iterator[bytes]:
    """An Arrow IPC stream, a record batch for each table; `embedding` is a list of fixed size, null in an error row."""
    dimensions = reading.dimensions()
    schema = _schema(pa.list_(_ARROW_TYPES[dtype], dimensions))
    outbox = _Outbox()
    with pa.ipc.new_stream(pa.PythonFile(outbox, mode="w"), schema) as writer:
        yield outbox.take()
        for table in reading.tables():
            writer.write_table(_renamed(table, schema, _fixed_lists(table["vector"], dtype, dimensions)))
            yield outbox.take()
    yield outbox.take()


def _fixed_lists(vectors: pa.ChunkedArray, dtype: Dtype, dimensions: int) -> pa.Array:
    if not dimensions:
        return pa.nulls(len(vectors), pa.list_(_ARROW_TYPES[dtype], 0))
    values = pa.array(_matrix(vectors, dtype, dimensions).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, dimensions, mask=pa.array(vectors.is_null().to_numpy()))


# The table: a new format is a writer and a line here.
FORMATS: dict[str, Format] = {
    "jsonl": Format("application/x-ndjson", "jsonl", write_jsonl),
    "parquet": Format("application/vnd.apache.parquet", "parquet", write_parquet),
    "arrow": Format("application/vnd.apache.arrow.stream", "arrows", write_arrow),
    "npy": Format("application/x-npy", "npy", write_npy, npy_length, write_npy_from),
    "npz": Format("application/x-npz", "npz", write_npz),
}
_ACCEPTED = {
    "application/jsonl": "jsonl",
    "application/ndjson": "jsonl",
    "application/parquet": "parquet",
    "application/x-parquet": "parquet",
} | {format.media_type: name for name, format in FORMATS.items()}


def choose_format(name: str | None, accepted: Sequence[str]) -> str:
    """The name of a format: this one, else the first that the Accept header names, else JSONL. Raises InvalidParameter."""
    if name is None:
        return next((_ACCEPTED[media_type] for media_type in accepted if media_type in _ACCEPTED), "jsonl")
    if name not in FORMATS:
        raise InvalidParameter(f"format: must be one of {', '.join(FORMATS)}", param="format")
    return name


def choose_dtype(name: str | None) -> Dtype:
    """The type of the numbers; float32 unless one is named. Raises InvalidParameter."""
    found = next((dtype for dtype in DTYPES if dtype == (name or "float32")), None)
    if found is None:
        raise InvalidParameter(f"dtype: must be one of {', '.join(DTYPES)}", param="dtype")
    return found
