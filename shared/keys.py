"""Every Redis key: pattern, type, meaning, expiry. Nothing else spells a key.

| key | type | meaning | expiry |
|---|---|---|---|
| umekomi:asks:{MODEL} | stream | asks waiting or being run; consumer group `workers`, a consumer per worker | none; bounded |
| umekomi:asks-bytes:{MODEL} | string | bytes of those asks | none |
| umekomi:able:{MODEL} | sorted set | workers that serve the model, scored by when they count as dead (unix s) | entries pruned |
| umekomi:answers:WEB | list | answers for one web process | 60 s after the last |
| umekomi:worker:WORKER | string | one worker's presence: device, models, what waits (JSON) | PRESENCE_S |
| umekomi:workers | sorted set | worker ids, scored by when they count as dead (unix s) | entries pruned |
| umekomi:job:JOB | hash | a job's manifest and markers, copied from storage | none; dropped when deleted |
| umekomi:shards:JOB | hash | shard -> its committed counts (JSON); field `whole` once rebuilt | 1 day after the last |
| umekomi:jobs:running | sorted set | jobs that are not finished, by created_at | none |
| umekomi:jobs:of:OWNER | sorted set | an owner's jobs, by created_at | none |
| umekomi:batches:of:OWNER | sorted set | an owner's batches, by created_at | none |
| umekomi:jobs:finished | sorted set | jobs that are finished, by finished_at | entries dropped |
| umekomi:webhooks | sorted set | jobs whose webhook has yet to hear of their end, by when to try (unix s) | entries dropped |
| umekomi:events | channel | ids of jobs, each published when something about it changed | not kept |
| umekomi:passes | sorted set | a running job's virtual time in the dealing of shards | none |
| umekomi:in-flight:{MODEL} | sorted set | JOB/SHARD sent, not committed, by when it counts as lost | entries pruned |
| umekomi:lease:JOB/SHARD | string | the worker that runs the shard now | LEASE_S, renewed |
| umekomi:lock:NAME | string | who does NAME now (dealing, reconciling) | seconds |
| umekomi:index | string | present once everything was rebuilt from storage | none |
| umekomi:deal | list | models whose shards should be dealt now; the leader waits on it | none; drained |
| umekomi.bulk.MODEL | list | Celery's queue of (job, shard) messages | none; bounded by the window |

MODEL stands in braces so that a model's lane lies in one slot of a Redis cluster.
"""

from __future__ import annotations

PREFIX = "umekomi:"
WORKERS = PREFIX + "workers"
JOBS_RUNNING = PREFIX + "jobs:running"
JOBS_FINISHED = PREFIX + "jobs:finished"
WEBHOOKS = PREFIX + "webhooks"
EVENTS = PREFIX + "events"
PASSES = PREFIX + "passes"
INDEX = PREFIX + "index"
DEAL = PREFIX + "deal"

ASK_GROUP = "workers"


def asks(model: str) -> str:
    """Stream of a model's asks."""
    return f"{PREFIX}asks:{{{model}}}"


def asks_bytes(model: str) -> str:
    """Bytes of the asks in the stream."""
    return f"{PREFIX}asks-bytes:{{{model}}}"


def able(model: str) -> str:
    """Workers that serve the model."""
    return f"{PREFIX}able:{{{model}}}"


def answers(web_id: str) -> str:
    """Answers for one web process."""
    return f"{PREFIX}answers:{web_id}"


def worker(worker_id: str) -> str:
    """One worker's presence."""
    return f"{PREFIX}worker:{worker_id}"


def job(job_id: str) -> str:
    """A job's manifest and markers."""
    return f"{PREFIX}job:{job_id}"


def shards(job_id: str) -> str:
    """A job's committed counts by shard."""
    return f"{PREFIX}shards:{job_id}"


def jobs_of(owner: str) -> str:
    """An owner's jobs."""
    return f"{PREFIX}jobs:of:{owner}"


def batches_of(owner: str) -> str:
    """An owner's batches."""
    return f"{PREFIX}batches:of:{owner}"


def in_flight(model: str) -> str:
    """Shards sent and not committed."""
    return f"{PREFIX}in-flight:{{{model}}}"


def lease(job_id: str, shard: int) -> str:
    """The worker that runs a shard now."""
    return f"{PREFIX}lease:{job_id}/{shard}"


def lock(name: str) -> str:
    """Who does a thing that one at a time may do."""
    return f"{PREFIX}lock:{name}"


def bulk_queue(model: str) -> str:
    """Celery's queue of a model's shards."""
    return f"umekomi.bulk.{model}"
