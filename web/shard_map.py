"""The shard map: how each shard of a job stands, as a short string, for a page that draws a cell a shard."""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from shared.jobs.job import JobView

ShardState = Literal["waiting", "sent", "running", "done", "failed"]
LETTERS: dict[ShardState, str] = {"waiting": "w", "sent": "s", "running": "r", "done": "d", "failed": "f"}


class ShardMap(TypedDict):
    """Every shard of a job by its state: `failed` is done, and has rows that failed; `sent` is on its way to a worker.

    `runs` has a letter for each run of equal neighbours and how many they are: `d120f1r2w877`. Those from `retried_from` on
    are retries of failed rows.
    """

    object: Literal["embedding.job.shards"]
    job: str
    total: int
    retried_from: int
    counts: dict[ShardState, int]
    runs: Annotated[str, Field(pattern=r"^([wsrdf][0-9]+)*$")]


def shard_map(view: JobView, sent: Collection[int], running: Collection[int], stored: Collection[int] = ()) -> ShardMap:
    """`sent` are in flight, `running` have a worker; `stored`: those known to be committed whose counts are not."""
    job = view.job
    is_complete = view.status == "completed"
    may_run = view.marks.done is None

    def state(shard: int) -> ShardState:
        counts = view.committed.get(shard)
        if counts is not None:
            return "failed" if counts.failed else "done"
        if is_complete or shard in stored:
            return "done"
        if may_run and shard in running:
            return "running"
        return "sent" if may_run and shard in sent else "waiting"

    states = [state(shard) for shard in range(len(job.shards))]
    return {
        "object": "embedding.job.shards",
        "job": job.id,
        "total": len(states),
        "retried_from": job.base_shards,
        "counts": {name: states.count(name) for name in LETTERS},
        "runs": "".join(f"{LETTERS[name]}{sum(1 for _ in run)}" for name, run in groupby(states)),
    }
