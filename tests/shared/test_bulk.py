"""The bulk lane: what Celery is given, and how long a sender waits for a Redis that is away."""

from __future__ import annotations

import base64
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from kombu.exceptions import OperationalError
from redis import Redis

from shared import bulk, keys
from shared.connections import connect
from tests.support.valkey import Valkey, free_port, valkey_binary


def messages(redis: Redis, model: str) -> list[tuple[str, list[object]]]:
    """Task and arguments of what waits in a model's queue, oldest first."""
    found = []
    for raw in reversed(redis.lrange(keys.bulk_queue(model), 0, -1)):  # type: ignore[arg-type]
        message = orjson.loads(raw)
        args, _, _ = orjson.loads(base64.b64decode(message["body"]))
        found.append((message["headers"]["task"], args))
    return found


def test_a_shard_goes_into_the_queue_of_its_model_and_nothing_else_does(redis: Redis, redis_url: str) -> None:
    app = bulk.make_celery(redis_url, ["m", "org/other"], shards_at_once=2)

    bulk.send(app, "m", "job_1", 7)
    bulk.send(app, "m", "job_1", 8)
    bulk.send(app, "org/other", "job_2", 0)

    assert messages(redis, "m") == [(bulk.TASK, ["job_1", 7]), (bulk.TASK, ["job_1", 8])]
    assert messages(redis, "org/other") == [(bulk.TASK, ["job_2", 0])]


@pytest.fixture
def socket_url() -> Iterator[str]:
    """A server on a Unix socket only."""
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are too long for a socket's name
        path = Path(directory) / "valkey.sock"
        process = subprocess.Popen(
            [str(valkey_binary()), "--port", "0", "--unixsocket", str(path), "--dir", directory, "--save", ""],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while not path.exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        yield f"unix://{path}"
        process.kill()
        process.wait()


def test_a_unix_socket_and_its_database_are_understood(socket_url: str) -> None:
    for database in (0, 2):
        url = f"{socket_url}?db={database}"
        bulk.send(bulk.make_celery(url, ["m"], shards_at_once=1), "m", "job_1", database)

        with connect(url) as redis:
            assert messages(redis, "m") == [(bulk.TASK, ["job_1", database])]


def test_a_server_over_tls_must_show_its_certificate_unless_the_url_says_otherwise() -> None:
    def certificate(url: str) -> object:
        return bulk.make_celery(url, ["m"], shards_at_once=1).connection_for_write().ssl["ssl_cert_reqs"]

    assert certificate("rediss://host/0") == ssl.CERT_REQUIRED
    assert certificate("rediss://host/0?socket_timeout=5") == ssl.CERT_REQUIRED
    assert certificate("rediss://host/0?ssl_cert_reqs=none") == ssl.CERT_NONE


@pytest.mark.parametrize(
    ("url", "spelled"),
    [
        ("redis://host", "redis://host/0"),
        ("redis://user:p%40ss@host:6380/3", "redis://user:p%40ss@host:6380/3"),
        ("redis://host/1?db=2&protocol=3&socket_timeout=5", "redis://host/2"),
        ("unix:///run/valkey.sock", "redis+socket:///run/valkey.sock?virtual_host=0"),
        ("unix://user:p@/run/valkey.sock?db=3", "redis+socket://user:p@/run/valkey.sock?virtual_host=3"),
    ],
)
def test_what_redis_py_understands_is_spelled_for_kombu(url: str, spelled: str) -> None:
    assert bulk.broker_url(url) == spelled
    bulk.make_celery(url, ["m"], shards_at_once=1).connection_for_write()


# A limit against hanging (Kombu's own would be 6 and 20 s), far above what it takes.
AT_MOST_S = 4.0


def test_a_redis_that_is_dead_is_said_at_once_and_used_again_when_it_is_back(tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    app = bulk.make_celery(valkey.url, ["m"], shards_at_once=1)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(OperationalError):
            bulk.send(app, "m", "job_1", 0)
        assert time.monotonic() - began < AT_MOST_S

    for shard in (1, 2):
        valkey.start()
        bulk.send(app, "m", "job_1", shard)
        with connect(valkey.url) as redis:
            assert messages(redis, "m") == [(bulk.TASK, ["job_1", shard])]
        valkey.kill()
        with pytest.raises(OperationalError):
            bulk.send(app, "m", "job_1", 0)


def test_a_redis_that_is_frozen_is_not_waited_for(tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    valkey.start()
    app = bulk.make_celery(valkey.url, ["m"], shards_at_once=1)
    bulk.send(app, "m", "job_1", 0)
    assert valkey.process is not None
    valkey.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(OperationalError):
            bulk.send(app, "m", "job_1", 1)
        assert time.monotonic() - began < AT_MOST_S
    finally:
        valkey.kill()


def test_celery_is_set_as_measured() -> None:
    conf = bulk.make_celery(f"redis://127.0.0.1:{free_port()}/0", ["a", "b"], shards_at_once=3).conf

    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.task_ignore_result
    assert conf.worker_prefetch_multiplier == 1
    assert conf.worker_concurrency == 3
    assert conf.worker_pool == "threads"
    assert conf.result_backend is None
    assert conf.broker_connection_retry_on_startup
    assert conf.broker_connection_max_retries is None
    assert [queue.name for queue in conf.task_queues] == [keys.bulk_queue("a"), keys.bulk_queue("b")]
    assert conf.accept_content == ["json"]
