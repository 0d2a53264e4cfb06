"""Shards out of records."""

from __future__ import annotations

import orjson
import pyarrow as pa

from shared.intake.cutting import GROWS_FROM_SHARD, ShardCutter
from shared.intake.duplicates import SeenIds
from shared.intake.records import Record


def cut(records: list[Record], *, shard_tokens: float, max_rows: int = 1000, seen: SeenIds | None = None) -> list[pa.Table]:
    tables: list[pa.Table] = []
    cutter = ShardCutter(lambda _number, table: tables.append(table), shard_tokens=shard_tokens, max_rows=max_rows, seen=seen)
    cutter.cut(records)
    assert cutter.shards == [len(table) for table in tables]
    return tables


def test_every_row_lands_in_one_shard_in_order() -> None:
    records = [Record(None, str(number), "x" * (number % 50 + 1), None, None) for number in range(500)]
    tables = cut(records, shard_tokens=100)
    joined = pa.concat_tables(tables)
    assert joined["index"].to_pylist() == list(range(500))
    assert joined["id"].to_pylist() == [str(number) for number in range(500)]
    assert len(tables[0]) < len(tables[1]) < len(tables[2])  # the first results come early


def test_bytes_count_in_utf8_and_rows_are_bounded() -> None:
    japanese = [Record(None, None, "埋" * 4, None, None) for _ in range(20)]  # 12 bytes: 3 tokens, and 2 a row
    assert [len(table) for table in cut(japanese, shard_tokens=20)] == [1, 2, 4, 4, 4, 4, 1]
    assert [len(table) for table in cut(japanese, shard_tokens=1e9, max_rows=8)] == [8, 8, 4]


def test_shards_grow_when_there_are_very_many() -> None:
    lengths = [len(table) for table in cut([Record(None, None, "xxxxxxxx", None, None)] * 5000, shard_tokens=4)]
    assert lengths[10] == 1
    assert lengths[GROWS_FROM_SHARD + 1] == 2


def errors(tables: list[pa.Table]) -> list[str | None]:
    raw = pa.concat_tables(tables)["error"].to_pylist()
    return [None if each is None else orjson.loads(each)["message"] for each in raw]


def test_the_second_row_of_an_id_is_an_error_row_that_names_the_first() -> None:
    ids = ["a", "b", "a", None, None, "b", "a", "c"]
    lined = [Record(10 + number, each, "text", None, None) for number, each in enumerate(ids)]
    for rows in (1, 3, 100):
        tables = cut(lined, shard_tokens=1e9, max_rows=rows, seen=SeenIds())
        first, second = "line 10 has the same id", "line 11 has the same id"
        assert errors(tables) == [None, None, first, None, None, second, first, None]
        row = pa.concat_tables(tables).to_pylist()[2]
        assert (row["id"], row["text"], row["line"]) == ("a", None, 12)
        assert orjson.loads(row["error"])["code"] == "duplicate_id"
    bare = [record._replace(line=None) for record in lined]
    assert errors(cut(bare, shard_tokens=1e9, max_rows=2, seen=SeenIds()))[5] == "row 2 has the same id"
    assert errors(cut(lined, shard_tokens=1e9)) == [None] * 8


def test_the_id_of_an_error_row_is_still_free() -> None:
    wrong = '{"code":"x","message":"y","param":null}'
    records = [Record(1, "a", None, None, wrong), Record(2, "a", "text", None, None), Record(3, "a", None, None, wrong)]
    assert errors(cut(records, shard_tokens=1e9, seen=SeenIds())) == ["y", None, "y"]
