"""A Redis whose master Sentinels name: real servers, a real failover."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from shared import bulk, keys
from shared.connections import connect
from shared.sentinel import Sentinels
from shared.settings import Settings
from tests.support.valkey import Valkey, free_port, valkey_binary
from tests.support.waiting import wait_until

CONFIGURATION = """port {port}
bind 127.0.0.1
dir {directory}
sentinel monitor main 127.0.0.1 {master} 1
sentinel down-after-milliseconds main 300
sentinel failover-timeout main 1000
"""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Valkey, Valkey, str]]:
    """The master, its replica, and the URL that names the Sentinel."""
    directories = [tmp_path / name for name in ("master", "replica", "sentinel")]
    for directory in directories:
        directory.mkdir()
    master, replica = Valkey(directories[0]), Valkey(directories[1])
    master.start()
    replica.start()
    with Redis.from_url(master.url) as one, Redis.from_url(replica.url) as other:
        one.config_set("repl-diskless-sync-delay", 0)
        other.replicaof("127.0.0.1", master.port)
        wait_until(lambda: other.info("replication")["master_link_status"] == "up")
    port = free_port()
    file = directories[2] / "sentinel.conf"
    file.write_text(CONFIGURATION.format(port=port, directory=directories[2], master=master.port))
    sentinel = subprocess.Popen([str(valkey_binary()), str(file), "--sentinel"], stdout=subprocess.DEVNULL)
    with Redis.from_url(f"redis://127.0.0.1:{port}") as asked:
        wait_until(lambda: answers(asked))
        # It looks once in seconds otherwise.
        asked.execute_command("SENTINEL", "DEBUG", *"info-period 100 ping-period 100 ask-period 100 publish-period 100".split())
        wait_until(lambda: any(asked.sentinel_slaves("main")))
    yield master, replica, f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/main/0"
    sentinel.kill()
    sentinel.wait()
    master.kill()
    replica.kill()


def test_both_lanes_find_the_master_and_the_new_one_after_a_failover(servers: tuple[Valkey, Valkey, str]) -> None:
    master, replica, url = servers
    celery = bulk.make_celery(url, ["m"], shards_at_once=1)
    with connect(url) as redis:
        wait_until(lambda: works(redis))
        bulk.send(celery, "m", "job_1", 0)
        assert redis.llen(keys.bulk_queue("m")) == 1
        assert redis.connection_pool.get_master_address() == ("127.0.0.1", master.port)
        redis.wait(1, 2000)

        master.kill()

        wait_until(lambda: works(redis), 30)
        assert redis.connection_pool.get_master_address() == ("127.0.0.1", replica.port)
        bulk.send(celery, "m", "job_1", 1)
        assert redis.llen(keys.bulk_queue("m")) == 2
    celery.close()


def answers(redis: Redis) -> bool:
    with suppress(RedisError):
        return bool(redis.ping())
    return False


def works(redis: Redis) -> bool:
    with suppress(RedisError):
        return bool(redis.set("written", 1))
    return False


def test_a_url_may_say_everything() -> None:
    url = "redis+sentinel://me:p%40ss@one,two:7000,[::1]:7001/main/3?sentinel_username=them&sentinel_password=s"
    said = Sentinels.of(url)

    assert said.hosts == (("one", 26379), ("two", 7000), ("::1", 7001))
    assert (said.service, said.db, said.username, said.password) == ("main", 3, "me", "p@ss")
    assert said.own == {"username": "them", "password": "s"}
    assert said.broker_url().split(";")[0] == "sentinel://me:p%40ss@one:26379/3"
    assert "p@ss" not in repr(said)


@pytest.mark.parametrize(
    "wrong",
    [
        "redis+sentinel://",
        "redis+sentinel://one:26379",
        "redis+sentinel:///main",
        "redis+sentinel://one:x/main",
        "redis+sentinel://one/main/first",
        "redis+sentinel://:secret@one/main?ssl=true",
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_when_the_process_starts(wrong: str) -> None:
    with pytest.raises(ValueError, match="Sentinel"):
        Settings(redis_url=wrong)
    with pytest.raises(ValueError, match="Sentinel") as refused:
        Sentinels.of(wrong)
    assert "secret" not in str(refused.value)
