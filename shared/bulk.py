"""The bulk lane: Celery carries (job_id, shard) and nothing else; storage is the truth, so a message may be lost or doubled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from celery import Celery
from kombu import Queue, pools

from shared import keys
from shared.connections import COMMAND_TIMEOUT_S, sentinel_options
from shared.sentinel import SCHEME, Sentinels

TASK = "umekomi.embed_shard"

# Whoever sends does not wait for a Redis that is away (with Kombu's own choices: 6 s for a dead one, 20 s for a frozen one).
_SEND_OPTIONS = {
    "socket_timeout": COMMAND_TIMEOUT_S,
    "socket_connect_timeout": COMMAND_TIMEOUT_S,
    "retry_on_timeout": False,
    "max_retries": 1,
    "interval_start": 0,
}


def make_celery(redis_url: str, models: Iterable[str], *, shards_at_once: int) -> Celery:
    """Celery as measured in docs/architecture.md: threads, late acks, no results, sockets that notice a dead server."""
    app = Celery("umekomi", broker=broker_url(redis_url), set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_serializer="json",
        accept_content=["json"],
        task_queues=[_queue(keys.bulk_queue(model)) for model in models],
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
            **_of_sentinels(redis_url),
        },
    )
    return app


def broker_url(redis_url: str) -> str:
    """Kombu's spelling of a URL that redis-py understands, meaning the same.

    A Unix socket is redis+socket:///path?virtual_host=1 there, ?db= is unknown, what else redis-py reads from the query is
    refused, and rediss:// checks no certificate unless told to.
    """
    if redis_url.startswith(SCHEME):
        return Sentinels.of(redis_url).broker_url()
    parts = urlsplit(redis_url)
    query = dict(parse_qsl(parts.query))
    db = query.get("db", parts.path.lstrip("/") if parts.scheme != "unix" else "") or "0"
    if parts.scheme == "unix":
        return f"redis+socket://{parts.netloc}{parts.path}?virtual_host={db}"
    options = {name: value for name, value in query.items() if name.startswith("ssl_")}
    if parts.scheme == "rediss":
        options = {"ssl_cert_reqs": "required"} | options
    return urlunsplit((parts.scheme, parts.netloc, f"/{db}", urlencode(options), ""))


def _of_sentinels(redis_url: str) -> dict[str, Any]:
    """Kombu's transport options for a Redis that Sentinels name."""
    if not redis_url.startswith(SCHEME):
        return {}
    said = Sentinels.of(redis_url)
    return {"master_name": said.service, "sentinel_kwargs": sentinel_options(said)}


def declare_queue(app: Celery, name: str) -> None:
    """Make a queue known that came after the application was made; left to itself Celery would give it another exchange."""
    if name not in app.amqp.queues:
        app.amqp.queues.add(_queue(name))


def _queue(name: str) -> Queue:
    return Queue(name, routing_key=name)


def send(app: Celery, model: str, job_id: str, shard: int) -> None:
    """Put a shard into the queue of its model. Raises kombu's OperationalError, after about a second, if Redis is away."""
    declare_queue(app, keys.bulk_queue(model))
    connection = app.connection_for_write(transport_options=_SEND_OPTIONS)
    # Kombu keeps a pool of producers for each kind of connection.
    with pools.producers[connection].acquire(block=True) as producer:
        app.send_task(
            TASK, args=(job_id, shard), queue=keys.bulk_queue(model), ignore_result=True, retry=False, producer=producer
        )
