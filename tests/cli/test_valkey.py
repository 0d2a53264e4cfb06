from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.valkey import MAX_SOCKET_PATH_BYTES, EmbeddedValkey, socket_path
from shared import bulk
from shared.connections import connect


@pytest.fixture(params=["plain", "with a space and ütf", "x" * 120])
def embedded(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[EmbeddedValkey]:
    valkey = EmbeddedValkey(tmp_path / request.param)
    with subprocess.Popen(valkey.command(), stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        while b"Ready to accept connections" not in server.stdout.readline():
            assert server.poll() is None
        yield valkey
        server.terminate()
        server.stdout.read()


def test_redis_and_celery_reach_it_by_its_url(embedded: EmbeddedValkey) -> None:
    assert embedded.is_up()
    with connect(embedded.url) as redis:
        celery = bulk.make_celery(embedded.url, ["m"], shards_at_once=1)
        bulk.send(celery, "m", "job_1", 3)

        assert redis.llen("umekomi.bulk.m") == 1
        celery.close()


def test_it_writes_all_down_evicts_nothing_and_only_its_user_may_connect(embedded: EmbeddedValkey) -> None:
    with connect(embedded.url) as redis:
        assert redis.config_get("appendonly")["appendonly"] == "yes"
        assert redis.config_get("appendfsync")["appendfsync"] == "everysec"
        assert redis.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert redis.config_get("port")["port"] == "0"
        assert redis.config_get("dir")["dir"] == str(embedded.directory)
    assert embedded.socket.stat().st_mode & 0o777 == 0o700
    assert embedded.socket.parent.stat().st_mode & 0o777 == 0o700


def test_nobody_answers_before_it_runs(tmp_path: Path) -> None:
    assert not EmbeddedValkey(tmp_path).is_up()


def test_the_socket_lies_with_the_data_unless_that_is_too_long(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)

    assert socket_path(tmp_path) == tmp_path / "run" / "valkey.sock"
    assert len(os.fsencode(socket_path(long))) <= MAX_SOCKET_PATH_BYTES
    assert socket_path(long) == socket_path(long)
    assert socket_path(long) != socket_path(tmp_path / ("y" * 120))
    for path in (socket_path(long), socket_path(tmp_path / ("y" * 120))):
        path.parent.rmdir()


def test_a_directory_that_is_a_link_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(PermissionError):
        socket_path(tmp_path)
