"""Connections to Redis: nobody waits long for a server that is dead, frozen or restarted."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from shared import connections
from shared.connections import connect
from tests.support.valkey import Valkey, free_port

# A limit against hanging, far above what it takes.
AT_MOST_S = 4.0


def test_a_dead_server_is_said_at_once() -> None:
    with connect(f"redis://127.0.0.1:{free_port()}/0") as redis:
        began = time.monotonic()
        with pytest.raises(RedisError):
            redis.ping()
        assert time.monotonic() - began < AT_MOST_S


def test_a_frozen_server_is_not_waited_for_and_a_thawed_one_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    valkey = Valkey(tmp_path)
    valkey.start()
    try:
        with connect(valkey.url) as redis:
            redis.set("a", "1")
            assert valkey.process is not None
            valkey.process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(RedisError):
                redis.get("a")
            assert time.monotonic() - began < AT_MOST_S
            valkey.process.send_signal(signal.SIGCONT)
            assert redis.get("a") == b"1"
    finally:
        valkey.kill()


def test_a_restarted_server_costs_no_command(tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    valkey.start()
    try:
        with connect(valkey.url) as redis:
            redis.ping()
            valkey.kill()
            valkey.start()
            assert redis.ping()
    finally:
        valkey.kill()


def test_a_blocking_read_may_last_as_long_as_it_wants_to(redis_url: str) -> None:
    from shared import control
    from shared.interactive import wire

    assert max(wire.BLOCK_S, control.BLOCK_S) < connections.BLOCKING_TIMEOUT_S
    with connect(redis_url, timeout_s=connections.BLOCKING_TIMEOUT_S) as redis:
        assert redis.blmpop(connections.COMMAND_TIMEOUT_S + 0.2, 1, "nothing", direction="LEFT") is None
