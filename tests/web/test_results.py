"""Result files: every format holds the same rows, whatever shards and rounds they lie in, and streams them."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.errors import Conflict, InvalidParameter
from shared.jobs import reading as reading_module
from shared.jobs.job import Counts, Done, Job, JobParameters, Marks
from shared.jobs.reading import Reading, open_reading
from shared.jobs.store import JobStore
from shared.records import OUTPUT_SCHEMA, ShardCounts
from shared.storage import DirectoryStorage
from web import results
from web.results import DTYPES, FORMATS, Dtype, choose_dtype, choose_format

DONE = Marks(done=Done(status="completed", finished_at=1.0, counts=Counts()))
ERROR = '{"code":"c","message":"m","param":null}'
ROWS: list[dict[str, Any]] = [
    {"index": 0, "id": "a", "vector": [1.5, -0.1], "tokens": 3, "truncated": True, "metadata": '{"n": 1.0e2}'},
    {"index": 1, "line": 9, "error": ERROR},
    {"index": 2, "id": "ü-c", "vector": [3e-8, 7.0], "tokens": 5, "truncated": False},
    {"index": 3, "id": "d", "error": ERROR, "tokens": 0, "truncated": False},
    {"index": 4, "id": "e", "vector": [70000.0, 0.25], "tokens": 1, "truncated": False},
]


def job_of(storage_of: Path, shards: list[list[dict[str, Any]]], **fields: Any) -> Reading:
    """A completed job whose output is these rows."""
    store = JobStore(DirectoryStorage(storage_of))
    job = Job(id="job_x", owner="o", model="m", created_at=0, shards=tuple(map(len, shards)), **fields)
    store.put_job(job)
    for shard, rows in enumerate(shards):
        failed = sum("error" in row for row in rows)
        counts = ShardCounts(rows=len(rows), failed=failed, truncated=0, tokens=0, started_at=0, finished_at=1)
        assert store.commit(job.id, shard, pa.Table.from_pylist(rows, schema=OUTPUT_SCHEMA), counts)
    return open_reading(store, job, DONE)


def read_jsonl(content: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in content.splitlines()]


def plain(table: pa.Table) -> list[dict[str, Any]]:
    rows = table.to_pylist()
    for row in rows:
        for name in ("error", "metadata"):
            row[name] = orjson.loads(row[name]) if row[name] is not None else None
    return rows


def read_npy(content: bytes) -> list[dict[str, Any]]:
    matrix = np.load(io.BytesIO(content), allow_pickle=False)
    return [{"embedding": None if np.isnan(row).any() else row} for row in matrix]


def read_npz(content: bytes) -> list[dict[str, Any]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        assert set(arrays) == {"vectors", "ids", "index", "tokens", "truncated"}
        columns = {name: arrays[name] for name in arrays}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [
        {
            "id": str(row["ids"]) or None,
            "index": int(row["index"]),
            "tokens": int(row["tokens"]),
            "truncated": bool(row["truncated"]),
            "embedding": None if np.isnan(row["vectors"]).any() else row["vectors"],
        }
        for row in rows
    ]


READERS: dict[str, Callable[[bytes], list[dict[str, Any]]]] = {
    "jsonl": read_jsonl,
    "parquet": lambda content: plain(pq.read_table(io.BytesIO(content))),
    "arrow": lambda content: plain(pa.ipc.open_stream(content).read_all()),
    "npy": read_npy,
    "npz": read_npz,
}


def expected(vector: list[float], dtype: Dtype) -> np.ndarray[Any, Any]:
    """What a reader finds: float16 holds no more than 65504."""
    return np.clip(np.array(vector, np.float32), -65504, 65504).astype(dtype) if dtype == "float16" else np.array(vector, dtype)


SHARDS = {
    "one shard": [ROWS],
    "a shard a row": [[row] for row in ROWS],
    "errors first": [[{**ROWS[1], "index": 0}], [{**row, "index": row["index"] + 1} for row in ROWS]],
}


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
@pytest.mark.parametrize("shards", SHARDS.values(), ids=SHARDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_back_the_rows(
    name: str, dtype: Dtype, shards: list[list[dict[str, Any]]], batch_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ROW_GROUP_BYTES", 1)
    monkeypatch.setattr(reading_module, "BATCH_ROWS", batch_rows)
    given = [row for rows in shards for row in rows]

    found = READERS[name](b"".join(FORMATS[name].write(job_of(tmp_path, shards), dtype)))

    assert len(found) == len(given)
    for row, origin in zip(found, given, strict=True):
        for column in {"id", "index"} & row.keys():
            assert row[column] == origin.get(column)
        if "error" in origin:
            assert row.get("embedding") is None
            assert "error" not in row or (row["error"], row["line"]) == (orjson.loads(ERROR), origin.get("line"))
        else:
            np.testing.assert_array_equal(np.array(row["embedding"], dtype), expected(origin["vector"], dtype))
            assert "tokens" not in row or (row["tokens"], row["truncated"]) == (origin["tokens"], origin["truncated"])
            assert row.get("error") is None
            assert "metadata" not in row or row["metadata"] == orjson.loads(origin.get("metadata") or "null")


@pytest.mark.parametrize(("name", "kind"), [("parquet", "list"), ("arrow", "fixed_size_list")])
@pytest.mark.parametrize(("dtype", "told"), [("float32", "float"), ("float16", "halffloat")])
def test_columns_are_of_the_type_asked_for(name: str, kind: str, dtype: Dtype, told: str, tmp_path: Path) -> None:
    content = b"".join(FORMATS[name].write(job_of(tmp_path, [ROWS]), dtype))
    schema = (pq.read_table(io.BytesIO(content)) if name == "parquet" else pa.ipc.open_stream(content).read_all()).schema
    embedding = schema.field("embedding").type
    assert str(embedding).startswith(kind)
    assert str(embedding.value_type) == told


NOTHING: dict[str, tuple[list[list[dict[str, Any]]], dict[str, Any], tuple[int, int]]] = {
    "no row": ([], {}, (0, 0)),
    "errors alone": ([[ROWS[1]]], {}, (1, 0)),
    "errors of a job with dimensions": ([[ROWS[1]]], {"parameters": JobParameters(dimensions=3)}, (1, 3)),
}


@pytest.mark.parametrize(("shards", "fields", "shape"), NOTHING.values(), ids=NOTHING)
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_without_a_vector_is_a_file(
    name: str, shards: list[list[dict[str, Any]]], fields: dict[str, Any], shape: tuple[int, int], tmp_path: Path
) -> None:
    content = b"".join(FORMATS[name].write(job_of(tmp_path, shards, **fields), "float32"))
    if name == "npy":
        matrix = np.load(io.BytesIO(content), allow_pickle=False)
        assert matrix.shape == shape
        assert np.isnan(matrix).all()
    elif name == "npz":
        assert np.load(io.BytesIO(content), allow_pickle=False)["vectors"].shape == shape
    else:
        assert len(READERS[name](content)) == shape[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_length_of_a_matrix_is_known_before_it_is_made_and_it_can_begin_at_any_byte(dtype: Dtype, tmp_path: Path) -> None:
    reading = job_of(tmp_path, [ROWS[:2], ROWS[2:]])
    kind = FORMATS["npy"]
    assert kind.length is not None
    assert kind.write_from is not None
    content = b"".join(kind.write(reading, dtype))
    assert kind.length(reading, dtype) == len(content)
    for position in range(len(content) + 1):
        assert b"".join(kind.write_from(reading, dtype, position)) == content[position:]


def test_a_matrix_can_be_mapped_into_memory(tmp_path: Path) -> None:
    reading = job_of(tmp_path / "storage", [ROWS])
    (tmp_path / "v.npy").write_bytes(b"".join(FORMATS["npy"].write(reading, "float32")))
    assert np.load(tmp_path / "v.npy", mmap_mode="r")[0].tolist() == [1.5, np.float32(-0.1)]


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_made_of_the_same_bytes_every_time(name: str, tmp_path: Path) -> None:
    reading = job_of(tmp_path, [ROWS[:2], ROWS[2:]])
    assert b"".join(FORMATS[name].write(reading, "float32")) == b"".join(FORMATS[name].write(reading, "float32"))


def test_an_archive_is_whole(tmp_path: Path) -> None:
    content = b"".join(FORMATS["npz"].write(job_of(tmp_path, [ROWS]), "float32"))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize("name", ["arrow", "npy", "npz"])
def test_vectors_of_two_sizes_are_refused_where_a_matrix_is_wanted(name: str, tmp_path: Path) -> None:
    reading = job_of(tmp_path, [[ROWS[0]], [{"index": 1, "vector": [1.0], "tokens": 1, "truncated": False}]])
    with pytest.raises(Conflict, match="different sizes"):
        b"".join(FORMATS[name].write(reading, "float32"))


@pytest.mark.parametrize("name", FORMATS)
def test_memory_is_flat_however_long_the_job(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "ROW_GROUP_BYTES", 100_000)
    monkeypatch.setattr(reading_module, "BATCH_ROWS", 100)
    vector = [0.5] * 64

    def peak(shards: int) -> tuple[int, int]:
        """Bytes of Python and of Arrow that were held at once while all of it was written."""
        rows = [
            [{"index": 100 * shard + n, "id": str(n), "vector": vector, "tokens": 1, "truncated": False} for n in range(100)]
            for shard in range(shards)
        ]
        reading = job_of(tmp_path / str(shards), rows)
        del rows
        arrow = 0
        tracemalloc.start()
        for _ in FORMATS[name].write(reading, "float32"):
            arrow = max(arrow, pa.total_allocated_bytes())
        python = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return python, arrow

    few, many = peak(10), peak(80)
    assert many[0] < few[0] + 300_000  # 70 shards more hold 1.8 MB of vectors
    assert many[1] < few[1] + 300_000


def test_the_format_is_chosen_by_name_then_by_accept_header() -> None:
    assert choose_format(None, ["text/html", "application/parquet"]) == "parquet"
    assert choose_format(None, ["application/vnd.apache.arrow.stream"]) == "arrow"
    assert choose_format("jsonl", ["application/parquet"]) == "jsonl"
    assert choose_format(None, ["*/*"]) == "jsonl"
    with pytest.raises(InvalidParameter):
        choose_format("xlsx", [])


def test_the_numbers_are_float32_unless_told() -> None:
    assert (choose_dtype(None), choose_dtype(""), choose_dtype("float16")) == ("float32", "float32", "float16")
    with pytest.raises(InvalidParameter):
        choose_dtype("float64")
