"""The rows of a shard and their files."""

from __future__ import annotations

import io

import numpy as np
import orjson
import pyarrow as pa
import pytest

from shared import records
from shared.records import INPUT_SCHEMA, OUTPUT_SCHEMA, ShardCounts

COUNTS = ShardCounts(rows=3, failed=1, truncated=1, tokens=12, started_at=1.25, finished_at=2.5, deduplicated=2)


def output() -> pa.Table:
    rows = [
        {"index": 0, "line": 1, "id": "a", "vector": [0.1, -2.5], "tokens": 5, "truncated": False, "metadata": '{"k":"v"}'},
        {"index": 1, "line": 2, "id": None, "vector": None, "tokens": None, "truncated": None, "error": '{"code":"x"}'},
        {"index": 2, "line": 4, "id": "夕", "vector": [3.0, 1e-38], "tokens": 7, "truncated": True},
    ]
    return pa.Table.from_pylist(rows, schema=OUTPUT_SCHEMA)


def test_rows_and_counts_survive_their_file() -> None:
    raw = records.write_output(output(), COUNTS)

    assert records.read_table(raw).replace_schema_metadata(None).equals(output())
    assert records.read_counts(raw) == COUNTS
    assert records.read_counts(io.BytesIO(raw)) == COUNTS


def test_a_shard_without_a_single_vector_is_one_too() -> None:
    rows = [{"index": 0, "line": 1, "error": "{}"}]
    table = pa.Table.from_pylist(rows, schema=OUTPUT_SCHEMA)

    assert records.read_table(records.write_output(table, COUNTS)).replace_schema_metadata(None).equals(table)


def test_input_rows_keep_every_text_as_it_is() -> None:
    texts = ["", " ", "a\u0000b", "夕飯はお肉です。", "😀" * 1000, "\r\n", None]
    table = pa.Table.from_pylist([{"index": n, "text": text} for n, text in enumerate(texts)], schema=INPUT_SCHEMA)

    assert records.read_table(records.write_table(table)).column("text").to_pylist() == texts


def test_vectors_keep_every_bit() -> None:
    vectors = np.random.default_rng(1).normal(size=(200, 384)).astype(np.float32)
    column = pa.array(list(vectors), pa.list_(pa.float32()))
    raw = records.write_table(pa.table({"vector": column}))

    read = records.read_table(raw).column("vector").combine_chunks()
    assert np.array_equal(read.flatten().to_numpy().reshape(200, 384), vectors)


def test_a_sink_gets_the_same_bytes() -> None:
    sink = io.BytesIO()
    assert records.write_table(output(), sink) == b""
    assert sink.getvalue() == records.write_table(output())


def test_a_file_damaged_anywhere_is_said_to_be_and_nothing_else_happens() -> None:
    raw = records.write_output(output(), COUNTS)
    rng = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(raw)
        start = int(rng.integers(len(raw)))
        damaged[start : start + 8] = rng.bytes(8)
        for read in (records.read_table, records.read_counts):
            try:
                read(bytes(damaged))
            except pa.ArrowInvalid:
                pass
    for length in range(0, len(raw), 37):
        with pytest.raises(pa.ArrowInvalid):
            records.read_counts(raw[:length])


def test_a_disk_that_fails_is_not_taken_for_a_damaged_file() -> None:
    class Failing(io.BytesIO):
        def read(self, *_: object) -> bytes:  # type: ignore[override]
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        records.read_counts(Failing(records.write_output(output(), COUNTS)))


def test_counts_of_a_newer_version_are_read() -> None:
    assert ShardCounts.from_json(orjson.dumps(orjson.loads(COUNTS.to_json()) | {"colour": "blue"})) == COUNTS
