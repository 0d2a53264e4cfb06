"""Parquet: columns of any type as text, id and metadata, in bounded memory."""

from __future__ import annotations

import datetime
import decimal
import io
import tempfile
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from shared.errors import StorageAway, TooLarge
from shared.intake import FORMATS, Options, UnreadableInput
from shared.intake.parquet import FileBlocks
from tests.shared.intake.support import code, parquet, parse


@pytest.mark.parametrize("dictionary", [True, False])
def test_rows_come_in_order_over_row_groups_and_batches(dictionary: bool) -> None:
    rows = {"id": [str(n) for n in range(1000)], "text": [f"text {n % 7}" for n in range(1000)], "n": list(range(1000))}
    records = parse("parquet", parquet(rows, row_group_size=300, use_dictionary=dictionary))
    assert [record.id for record in records] == rows["id"]
    assert [record.text for record in records] == rows["text"]
    assert [orjson.loads(record.metadata or "")["n"] for record in records] == rows["n"]
    assert {record.line for record in records} == {None}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize("id_kind", [pa.int64(), pa.string(), pa.int8()])
def test_texts_and_ids_of_any_text_type_are_read(kind: pa.DataType, id_kind: pa.DataType) -> None:
    texts = (
        pa.array(["aü", None, "", "b"]).cast(kind)
        if not pa.types.is_dictionary(kind)
        else pa.array(["aü", None, "", "b"]).dictionary_encode()
    )
    ids = pa.array([1, 2, 3, None], pa.int64()).cast(id_kind)
    records = parse("parquet", parquet({"id": ids, "text": texts}))
    assert [(record.id, record.text, code(record)) for record in records] == [
        ("1", "aü", None),
        ("2", None, "missing_required_parameter"),
        ("3", None, "invalid_value"),
        (None, "b", None),
    ]


def test_metadata_of_any_type_becomes_json() -> None:
    rows: dict[str, Any] = {
        "text": ["a"],
        "when": [datetime.datetime(2020, 1, 2, 3, tzinfo=datetime.UTC)],
        "day": [datetime.date(2020, 1, 2)],
        "price": [decimal.Decimal("1.50")],
        "raw": [b"\x00\xff"],
        "tags": [["x", "y"]],
        "nested": [{"a": 1, "b": None}],
        "nan": [float("nan")],
        "none": pa.nulls(1),
    }
    (record,) = parse("parquet", parquet(rows))
    assert orjson.loads(record.metadata or "") == {
        "when": "2020-01-02T03:00:00+00:00",
        "day": "2020-01-02",
        "price": "1.50",
        "raw": "AP8=",
        "tags": ["x", "y"],
        "nested": {"a": 1, "b": None},
        "nan": None,
        "none": None,
    }


def test_columns_are_chosen_by_name_and_others_are_not_even_read() -> None:
    rows = {"body": ["a"], "key": [7], "x": ["m"], "huge": ["h" * 100_000]}
    (record,) = parse("parquet", parquet(rows), text_column="body", id_column="key", metadata_columns=["x"])
    assert (record.id, record.text, record.metadata) == ("7", "a", '{"x":"m"}')


@pytest.mark.parametrize("dictionary", [True, False])
def test_rows_that_are_too_long_are_error_rows(dictionary: bool) -> None:
    rows = {
        "id": ["1", "2", "3", "x" * 20_000, "y" * 600],
        "text": ["ok", "x" * 1001, "ok", "ok", "ok"],
        "m": ["a", "a", "m" * 20_000, "a", "a"],
    }
    records = parse("parquet", parquet(rows, use_dictionary=dictionary))
    assert [code(record) for record in records] == [None, "text_too_long", "invalid_value", "invalid_value", "invalid_value"]
    assert [record.id for record in records] == ["1", "2", "3", None, None]


def test_text_that_is_no_utf8_is_an_error_row() -> None:
    bad, good = parse("parquet", parquet({"text": pa.array([b"\xff", b"a"], pa.binary())}))
    assert (code(bad), good.text) == ("invalid_encoding", "a")


def test_one_long_text_that_all_rows_refer_to_is_kept_once() -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["x" * 1_000_000]))
    body = parquet({"text": texts})
    assert len(body) < 100_000
    records = FORMATS["parquet"].parse([body], Options(max_text_bytes=1000, max_bytes=10_000_000))
    assert {code(record) for record in records} == {"text_too_long"}
    assert pa.default_memory_pool().max_memory() < 100_000_000  # a batch alone would be 256 MB


def test_what_unpacks_to_too_much_is_refused_by_its_footer() -> None:
    body = parquet({"text": ["x" * 100_000 + str(n) for n in range(50)]}, compression="zstd", use_dictionary=False)
    assert len(body) < 100_000
    with pytest.raises(TooLarge):
        parse("parquet", body, max_bytes=1_000_000)
    assert len(parse("parquet", body, max_bytes=10_000_000)) == 50


@pytest.mark.parametrize("body", [b"x", b"PAR1" * 10, b"PAR1" + b"\0" * 100 + b"PAR1", parquet({"text": ["a"] * 100})[:-9]])
def test_what_is_not_parquet_is_unreadable(body: bytes) -> None:
    with pytest.raises(UnreadableInput) as raised:
        parse("parquet", body)
    assert raised.value.reason == "invalid_parquet"


def test_a_damaged_page_is_unreadable() -> None:
    body = bytearray(parquet({"text": [f"text {n}" for n in range(10_000)]}, use_dictionary=False, compression="zstd"))
    body[4 : len(body) - 2000] = b"\xff" * (len(body) - 2004)
    with pytest.raises(UnreadableInput):
        parse("parquet", bytes(body))


@pytest.mark.parametrize(
    ("rows", "options", "param"),
    [
        ({"a": ["x"]}, {}, "text_column"),
        ({"text": [1]}, {}, "text_column"),
        ({"text": [["x"]]}, {}, "text_column"),
        ({"text": ["x"], "id": [1.5]}, {}, "id_column"),
        ({"text": ["x"]}, {"id_column": "key"}, "id_column"),
    ],
)
def test_a_file_without_the_columns_is_unreadable(rows: dict[str, Any], options: dict[str, Any], param: str) -> None:
    with pytest.raises(UnreadableInput) as raised:
        parse("parquet", parquet(rows), **options)
    assert (raised.value.reason, raised.value.param) == ("unknown_column", param)


def test_a_file_that_can_be_seeked_in_is_not_spooled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    file = FileBlocks(io.BytesIO(parquet({"text": ["a"]})))
    assert [record.text for record in FORMATS["parquet"].parse(file, Options(max_text_bytes=10))] == ["a"]


def test_a_spool_on_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: open("/dev/full", "wb+", buffering=0))  # noqa: PTH123, SIM115
    with pytest.raises(StorageAway):
        parse("parquet", parquet({"text": ["a"]}))


def test_nothing_is_left_of_a_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    records = FORMATS["parquet"].parse([parquet({"text": ["a"] * 1000})], Options(max_text_bytes=10))
    next(records)
    assert list(tmp_path.iterdir()) == []
