"""Records out of streams, shards out of records."""

from __future__ import annotations

import orjson
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from web.uploads import GROWS_FROM_SHARD, Record, ShardCutter, from_ndjson


def blocks_of(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


@given(texts=st.lists(st.text(min_size=1, max_size=20), max_size=20), size=st.integers(1, 50), ends=st.booleans())
def test_records_do_not_depend_on_where_blocks_end(texts: list[str], size: int, ends: bool) -> None:
    body = b"\n".join(orjson.dumps({"text": text}) for text in texts) + (b"\n" if ends else b"")
    records = list(from_ndjson(blocks_of(body, size), 1000))
    assert [record.text for record in records] == texts
    assert [record.line for record in records] == list(range(1, len(texts) + 1))


def test_a_byte_order_mark_and_carriage_returns_are_passed_over() -> None:
    records = list(from_ndjson([b'\xef\xbb\xbf{"text":"a"}\r\n{"text":"b"}\r\n'], 1000))
    assert [record.text for record in records] == ["a", "b"]


def test_of_a_line_without_end_nothing_is_kept() -> None:
    class Counting:
        yielded = 0

        def __iter__(self) -> object:
            yield b'{"text":"first"}\n{"text":"'
            for _ in range(200):
                self.yielded += 1
                yield b"x" * 10_000
            yield b'"}\n{"text":"last"}'

    first, long, last = list(from_ndjson(Counting(), 1000))  # type: ignore[arg-type]
    assert (first.text, last.text, last.line) == ("first", "last", 3)
    assert long.line == 2
    assert orjson.loads(long.error or "")["code"] == "text_too_long"


def cut(records: list[Record], *, shard_tokens: float, max_rows: int = 1000) -> list[pa.Table]:
    tables: list[pa.Table] = []
    ShardCutter(lambda _number, table: tables.append(table), shard_tokens=shard_tokens, max_rows=max_rows).cut(records)
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
