"""The bulk lane: Celery carries (job_id, shard) and nothing else; storage is the truth, so a message may be lost or doubled."""

from __future__ import annotations

from collections.abc import Iterable

from celery import Celery
from kombu import Queue

from shared import keys

TASK = "umekomi.embed_shard"


def make_celery(redis_url: str, models: Iterable[str], *, shards_at_once: int) -> Celery:
    """Celery as measured in docs/architecture.md: threads, late acks, no results, sockets that notice a dead server."""
    app = Celery("umekomi", broker=redis_url.replace("unix://", "redis+socket://", 1), set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_serializer="json",
        accept_content=["json"],
        task_queues=[Queue(keys.bulk_queue(model), routing_key=keys.bulk_queue(model)) for model in models],
        task_create_missing_queues=True,
        worker_prefetch_multiplier=1,
        worker_concurrency=shards_at_once,
        worker_pool="threads",
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 600,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": not redis_url.startswith("unix://"),
            "retry_on_timeout": True,
            "health_check_interval": 10,
            "queue_order_strategy": "round_robin",
        },
    )
    return app


def send(app: Celery, model: str, job_id: str, shard: int) -> None:
    """Put a shard into the queue of its model. Raises kombu's OperationalError, after about a second, if Redis is away."""
    app.send_task(TASK, args=(job_id, shard), queue=keys.bulk_queue(model), ignore_result=True, retry=False)
