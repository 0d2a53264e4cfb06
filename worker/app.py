"""The worker process, composed: Celery, and the runtime that it starts and stops.

celery -A worker.app worker --pool threads
"""

from __future__ import annotations

import sys
from typing import Any

import celery.apps.worker
from celery.signals import setup_logging, worker_init, worker_ready, worker_shutdown, worker_shutting_down

from shared import bulk, logs
from shared.garbage import settle
from shared.live import LiveRegistry
from shared.settings import load_settings
from worker.delivery import ShardRequest
from worker.runtime import Runtime

settings = load_settings()
registry = LiveRegistry(settings)
app = bulk.make_celery(settings.broker, [model.name for model in registry], shards_at_once=settings.shards_at_once)
runtime = Runtime(settings, registry, app)


@app.task(name=bulk.TASK, Request=ShardRequest)
def embed_shard(job_id: str, shard: int) -> None:
    """Embed one shard and commit it; whatever happens, storage tells what is left to do."""
    runtime.shards.run(job_id, shard)


@setup_logging.connect
def _set_up_logs(**_: Any) -> None:
    logs.set_up(settings, "worker")
    if not sys.stdout.isatty():
        # What Celery says there of signals is for whoever pressed Ctrl-C, and no line of a log.
        celery.apps.worker.safe_say = lambda *_: None


# The threads pool fires no worker_process_init; worker_init comes before the consumer, in the one process there is.
@worker_init.connect
def _start(**_: Any) -> None:
    logs.set_up(settings, "worker")  # Celery sets its own up later
    settle()  # before any model is there: what is settled is never collected, and an unloaded model is to go whole
    runtime.start()


@worker_ready.connect
def _connected(sender: Any, **_: Any) -> None:
    runtime.queues.consumer_ready(sender)


@worker_shutting_down.connect
def _drain(**_: Any) -> None:
    runtime.drain()  # in a signal handler: sets events, waits for nothing


# Sent when the pool has run its last shard.
@worker_shutdown.connect
def _stop(**_: Any) -> None:
    runtime.stop()
