"""Every Redis key: pattern, type, meaning, expiry. Nothing else spells a key.

| key | type | meaning | expiry |
|---|---|---|---|
| umekomi:asks:{MODEL}:LENGTH | stream | asks waiting or being run; group `workers`, a consumer per worker | none; bounded |
| umekomi:asks-bytes:{MODEL}:LENGTH | string | bytes of those asks | none |
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
| umekomi:control:WORKER | list | what the worker is told to load or unload (JSON) | 1 min after the last |
| umekomi:control-outcomes:COMMAND | list | what came of it, by worker (JSON) | 1 min |
| umekomi:requests:OWNER | hash | what an owner has left of a minute's requests, at what time (unix s) | when full again |
| umekomi:tokens:OWNER | hash | the same of the tokens of synchronous requests | when full again |
| umekomi:submitting:OWNER | sorted set | submissions that are no jobs yet, by when they count as lost (unix s) | entries pruned |
| umekomi:stored:OWNER | string | bytes of the owner's files and inputs, as storage had them | 1 min |
| umekomi:index | string | present once everything was rebuilt from storage | none |
| umekomi:downloads | sorted set | ids of applied models, by created_at | DownloadBoard's EXPIRE_S; bounded |
| umekomi:download:ID | hash | an applied model: wish, state (JSON), attempts, cancelled | DownloadBoard's EXPIRE_S |
| umekomi:history | list | what was done in each of the last steps of some seconds, the newest first (JSON) | 1 hour; bounded |
| umekomi:latencies | hash | web process -> how long its asks took lately (JSON) | 2 min after the last |
| umekomi:link:DIGEST | string | a download that may be fetched once without a key (JSON) | 1 min |
| umekomi:deal | list | models whose shards should be dealt now; the leader waits on it | none; drained |
| umekomi.bulk.MODEL | list | Celery's queue of (job, shard) messages | none; bounded by the window |

MODEL stands in braces: a model's lane belongs together. A Redis Cluster would want more than that (docs/scaling.md). LENGTH is
short, medium or long: no question queues behind a book.
"""

from __future__ import annotations

from typing import Literal

PREFIX = "umekomi:"
WORKERS = PREFIX + "workers"
JOBS_RUNNING = PREFIX + "jobs:running"
JOBS_FINISHED = PREFIX + "jobs:finished"
WEBHOOKS = PREFIX + "webhooks"
EVENTS = PREFIX + "events"
PASSES = PREFIX + "passes"
INDEX = PREFIX + "index"
DEAL = PREFIX + "deal"
DOWNLOADS = PREFIX + "downloads"
HISTORY = PREFIX + "history"
LATENCIES = PREFIX + "latencies"

ASK_GROUP = "workers"
AskLength = Literal["short", "medium", "long"]


def asks(model: str, length: AskLength = "short") -> str:
    """Stream of a model's asks of about one length."""
    return f"{PREFIX}asks:{{{model}}}:{length}"


def asks_bytes(model: str, length: AskLength = "short") -> str:
    """Bytes of the asks in the stream."""
    return f"{PREFIX}asks-bytes:{{{model}}}:{length}"


def able(model: str) -> str:
    """Workers that serve the model."""
    return f"{PREFIX}able:{{{model}}}"


def answers(web_id: str) -> str:
    """Answers for one web process."""
    return f"{PREFIX}answers:{web_id}"


def worker(worker_id: str) -> str:
    """One worker's presence."""
    return f"{PREFIX}worker:{worker_id}"


def control(worker_id: str) -> str:
    """What a worker is told to do."""
    return f"{PREFIX}control:{worker_id}"


def control_outcomes(command_id: str) -> str:
    """What came of a command."""
    return f"{PREFIX}control-outcomes:{command_id}"


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


def requests(owner: str) -> str:
    """What is left of an owner's requests of a minute."""
    return f"{PREFIX}requests:{owner}"


def tokens(owner: str) -> str:
    """What is left of an owner's tokens of a minute."""
    return f"{PREFIX}tokens:{owner}"


def submitting(owner: str) -> str:
    """An owner's submissions that are no jobs yet."""
    return f"{PREFIX}submitting:{owner}"


def stored(owner: str) -> str:
    """Bytes that an owner has in storage."""
    return f"{PREFIX}stored:{owner}"


def in_flight(model: str) -> str:
    """Shards sent and not committed."""
    return f"{PREFIX}in-flight:{{{model}}}"


def lease(job_id: str, shard: int) -> str:
    """The worker that runs a shard now."""
    return f"{PREFIX}lease:{job_id}/{shard}"


def download(download_id: str) -> str:
    """An applied model: what is wanted, and how far it is."""
    return f"{PREFIX}download:{download_id}"


def link(digest: str) -> str:
    """A download that may be fetched once without a key."""
    return f"{PREFIX}link:{digest}"


def lock(name: str) -> str:
    """Who does a thing that one at a time may do."""
    return f"{PREFIX}lock:{name}"


def bulk_queue(model: str) -> str:
    """Celery's queue of a model's shards."""
    return f"umekomi.bulk.{model}"
