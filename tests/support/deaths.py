"""A worker that a text kills, in one process: what a real SIGKILL leaves undone is left undone."""

from __future__ import annotations

import pytest

from shared.jobs.job import Job
from shared.jobs.jobs import Jobs
from tests.support.engine import EngineDouble, embedded
from worker.bulk import ShardRunner
from worker.engine import Embedded, EmbedRequest

POISON = "POISON"


class Killed(BaseException):
    """Stands for SIGKILL: no `finally` of ours runs after it in the real thing."""


def run_past_deaths(
    jobs: Jobs, runner: ShardRunner, engine: EngineDouble, job: Job, monkeypatch: pytest.MonkeyPatch, most: int = 20
) -> None:
    """Run the job's first shard again and again until it is committed; each run that meets the text POISON dies."""
    killed = False

    def answer(request: EmbedRequest) -> Embedded:
        nonlocal killed
        if POISON in request.texts:
            killed = True
            raise Killed
        return embedded(request)

    def withdraw(job_id: str, shard: int, number: int) -> None:
        if not killed:
            original(job_id, shard, number)

    engine.answer = answer
    original = jobs.store.withdraw_attempt
    monkeypatch.setattr(jobs.store, "withdraw_attempt", withdraw)
    for _ in range(most):
        killed = False
        try:
            runner.run(job.id, 0)
        except Killed:
            pass
        jobs.index.release(job.id, job.model, 0, "w1")
        if jobs.store.committed(job.id):
            break
