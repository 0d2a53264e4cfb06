"""Result files: every format holds the same rows, however they are batched."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.errors import InvalidParameter
from shared.jobs.job import Counts, Done, Job, JobView, Marks
from shared.records import OUTPUT_SCHEMA
from web import results
from web.results import FORMATS, choose_format, extent

ROWS: list[dict[str, Any]] = [
    {"index": 0, "id": "a", "vector": [1.5, -0.1], "tokens": 3, "truncated": True, "metadata": '{"n": 1.0e2}'},
    {"index": 1, "line": 9, "error": '{"code":"c","message":"m","param":null}'},
    {"index": 2, "id": "c", "vector": [3e-8, 7.0], "tokens": 5, "truncated": False},
]


def read_jsonl(content: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in content.splitlines()]


def read_parquet(content: bytes) -> list[dict[str, Any]]:
    rows = []
    for row in pq.read_table(io.BytesIO(content)).to_pylist():
        for name in ("error", "metadata"):
            row[name] = orjson.loads(row[name]) if row[name] is not None else None
        rows.append(row)
    return rows


READERS = {"jsonl": read_jsonl, "parquet": read_parquet}


@pytest.mark.parametrize("batch_rows", [1, 2, 10])
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_gives_back_the_rows(name: str, batch_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "ROW_GROUP_BYTES", 1)
    table = pa.Table.from_pylist(ROWS, schema=OUTPUT_SCHEMA)
    content = b"".join(FORMATS[name].write(iter(table.to_batches(batch_rows))))
    one, two, three = READERS[name](content)
    for row, given in ((one, ROWS[0]), (three, ROWS[2])):
        assert (row["id"], row["index"], row["tokens"], row["truncated"]) == tuple(
            given[key] for key in ("id", "index", "tokens", "truncated")
        )
        np.testing.assert_array_equal(np.array(row["embedding"], np.float32), np.array(given["vector"], np.float32))
    assert one["metadata"] == {"n": 100.0}
    assert (two["index"], two["line"], two["error"]) == (1, 9, {"code": "c", "message": "m", "param": None})
    assert two.get("embedding") is None


def view(*, is_done: bool) -> JobView:
    job = Job(id="job_x", owner="o", model="m", created_at=0, shards=(3, 3, 2))
    done = Done(status="cancelled", finished_at=1, counts=Counts()) if is_done else None
    return JobView(job=job, marks=Marks(done=done))


def test_a_running_job_gives_its_prefix_and_a_cancelled_one_all_it_has() -> None:
    assert extent(view(is_done=False), [0, 2]) == results.Extent((0,), -1, 3, 2, False)
    assert extent(view(is_done=True), [0, 2]) == results.Extent((0, 2), -1, 5, 7, True)


def test_shards_before_after_are_not_read() -> None:
    assert extent(view(is_done=False), [0, 1, 2], after=2) == results.Extent((1, 2), 2, 5, 7, True)
    assert extent(view(is_done=False), [0, 1, 2], after=3) == results.Extent((1, 2), 3, 4, 7, True)
    assert extent(view(is_done=False), [0, 1, 2], after=99) == results.Extent((), 99, 0, 99, True)


def test_the_format_is_chosen_by_name_then_by_accept_header() -> None:
    assert choose_format(None, ["text/html", "application/parquet"]) is FORMATS["parquet"]
    assert choose_format("jsonl", ["application/parquet"]) is FORMATS["jsonl"]
    assert choose_format(None, ["*/*"]) is FORMATS["jsonl"]
    with pytest.raises(InvalidParameter):
        choose_format("xlsx", [])
