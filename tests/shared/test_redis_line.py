"""A line to Redis: answers as they came, each to its command, whatever becomes of the connection."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from shared.connections import connect
from shared.redis_line import Line
from shared.scripts import run_script
from tests.support.valkey import Valkey


def test_answers_come_in_order_and_an_error_takes_its_own_place_only(redis: Redis) -> None:
    redis.set("a", "1")
    found = Line(redis).call_each([("GET", "a"), ("INCR", "a"), ("LPUSH", "a", "x"), ("GET", "a")])

    assert found[:2] == [b"1", 2]
    assert isinstance(found[2], ResponseError)
    assert found[3] == b"2"


def test_an_error_of_one_command_is_raised(redis: Redis) -> None:
    line = Line(redis)
    with pytest.raises(ResponseError, match="wrong number"):
        line.call("GET")
    assert line.call("ECHO", "still there") == b"still there"


def test_a_script_that_redis_does_not_know_is_loaded(redis: Redis) -> None:
    redis.script_flush()
    assert run_script(Line(redis), "return ARGV[1] .. KEYS[1]", [(["k"], ["a"]), (["k"], ["b"])]) == [b"ak", b"bk"]


def test_a_connection_that_the_server_closed_is_made_anew(redis: Redis) -> None:
    line = Line(redis)
    redis.client_kill_filter(_id=str(line.call("CLIENT", "ID")))

    assert line.call("ECHO", "again") == b"again"


def test_an_answer_that_came_too_late_is_nobodys(tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    valkey.start()
    assert valkey.process is not None
    try:
        with connect(valkey.url, timeout_s=0.1) as redis:
            line = Line(redis)
            line.call("PING")
            os.kill(valkey.process.pid, signal.SIGSTOP)
            with pytest.raises(RedisError):
                line.call("ECHO", "late")
            os.kill(valkey.process.pid, signal.SIGCONT)
            assert line.call("ECHO", "in time") == b"in time"
            valkey.kill()
            with pytest.raises(RedisError):
                line.call("PING")
            valkey.start()
            assert line.call("PING") in (b"PONG", "PONG", True)
    finally:
        valkey.kill()


def test_threads_that_share_a_line_get_their_own_answers(redis: Redis) -> None:
    line, wrong = Line(redis), []

    def ask(name: str) -> None:
        wrong.extend(number for number in range(200) if line.call("ECHO", f"{name}{number}") != f"{name}{number}".encode())

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
