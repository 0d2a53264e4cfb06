"""ShardCutter: records as the shards of a job; never more than one shard in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa

from shared.intake.duplicates import SeenIds
from shared.intake.records import BadRecord, Record, utf8_bytes
from shared.records import INPUT_SCHEMA

# What a shard is sized for before any worker has measured the model: a small model on two cores.
DEFAULT_TOKENS_PER_S = 3000.0
# Text of one shard: what a worker and the parquet writer hold in memory at once.
MAX_SHARD_BYTES = 32 * 2**20
# A text of so many UTF-8 bytes counts as one token, and every row as two more.
BYTES_PER_TOKEN = 4
TOKENS_PER_ROW = 2
# The first shards are small, so that results and a rate appear early.
FIRST_SHARES = (0.25, 0.5)
# From this shard on they grow with their number: a corpus of any size stays in some ten thousand files.
GROWS_FROM_SHARD = 1000


class ShardCutter:
    """Cuts records into shards of about `shard_tokens` tokens and hands each to `put(number, table)`.

    With `seen` a row whose id an earlier good row had becomes an error row.
    """

    def __init__(
        self,
        put: Callable[[int, pa.Table], None],
        *,
        shard_tokens: float,
        max_rows: int,
        seen: SeenIds | None = None,
    ) -> None:
        self._put = put
        self._shard_tokens = shard_tokens
        self._max_rows = max_rows
        self._seen = seen
        self.shards: list[int] = []  # rows of each one that was put

    def cut(self, records: Iterable[Record]) -> None:
        """Put every record into a shard. Raises whatever `put` or the records do."""
        first = 0
        rows: list[Record] = []
        text_bytes = 0
        max_tokens = self._max_tokens()
        for record in records:
            rows.append(record)
            if record.text is not None:
                text_bytes += utf8_bytes(record.text)
            if record.metadata is not None:
                text_bytes += len(record.metadata)
            tokens = text_bytes / BYTES_PER_TOKEN + TOKENS_PER_ROW * len(rows)
            if tokens >= max_tokens or len(rows) >= self._max_rows or text_bytes >= MAX_SHARD_BYTES:
                self._flush(first, rows)
                first += len(rows)
                rows = []
                text_bytes = 0
                max_tokens = self._max_tokens()
        if rows:
            self._flush(first, rows)

    def _max_tokens(self) -> float:
        number = len(self.shards)
        if number < len(FIRST_SHARES):
            return self._shard_tokens * FIRST_SHARES[number]
        return self._shard_tokens * max(1.0, number / GROWS_FROM_SHARD)

    def _flush(self, first: int, rows: list[Record]) -> None:
        if self._seen is not None:
            _refuse_duplicates(self._seen, first, rows)
        columns = zip(*rows, strict=True)
        index = pa.array(np.arange(first, first + len(rows)))
        arrays = [pa.array(column, field.type) for column, field in zip(columns, list(INPUT_SCHEMA)[1:], strict=True)]
        self._put(len(self.shards), pa.Table.from_arrays([index, *arrays], schema=INPUT_SCHEMA))
        self.shards.append(len(rows))


def _refuse_duplicates(seen: SeenIds, first: int, rows: list[Record]) -> None:
    """Put error rows in the place of those whose id is taken. A row that was an error already takes none."""
    positions = [position for position, row in enumerate(rows) if row.id is not None and row.error is None]
    if not positions:
        return
    # A place is a line or, where there are no lines, a row from 1; an input has either.
    places = [rows[position].line or first + position + 1 for position in positions]
    for position, place in zip(positions, seen.add([rows[position].id or "" for position in positions], places), strict=True):
        if place is not None:
            row = rows[position]
            where = "row" if row.line is None else "line"
            wrong = BadRecord("duplicate_id", f"{where} {place} has the same id", "id")
            rows[position] = Record(row.line, row.id, None, None, wrong.json)
