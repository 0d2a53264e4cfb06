"""Redis or Valkey as umekomi needs it: reachable, new enough, forgetting nothing, quick, with the same clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, cast

from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from cli.doctor.finding import Finding, fail, gib, ok, warn
from cli.valkey import NoValkey, server_program, socket_path
from shared.build import umekomi_version
from shared.connections import connect
from shared.presence import PresenceBoard
from shared.settings import Settings

ABOUT = "redis"
# BLMPOP, on which the answers are waited for, came with 7.0.
LEAST_VERSION = (7, 0)
PINGS = 20
SLOW_MS, VERY_SLOW_MS = 2.0, 20.0
# Deadlines of asks are compared across machines; interactive_timeout_s is 25 s by default.
SKEW_S, BAD_SKEW_S = 0.5, 5.0


def check_redis(settings: Settings) -> Iterator[Finding]:
    """Everything about it."""
    url = settings.redis_url or _embedded_url(settings)
    if url is None:
        yield _can_be_started()
        return
    with closing(connect(url)) as redis:
        try:
            redis.ping()
        except AuthenticationError:
            yield fail(ABOUT, "does not let us in", "put user and password into --redis-url: redis://USER:PASSWORD@HOST:6379/0")
            return
        except (RedisError, OSError, ValueError) as error:
            if settings.redis_url is None:
                yield _can_be_started()  # the socket that a killed `serve` left
                return
            why = str(error).replace(settings.redis_url, "…") or type(error).__name__
            yield fail(ABOUT, f"cannot be reached: {why}", "start it, or correct --redis-url (UMEKOMI_REDIS_URL)")
            return
        info = cast(Mapping[str, Any], redis.info())
        yield from judge(info)
        yield judge_latency(_pings_ms(redis))
        yield judge_skew(_skew_s(redis))
        yield from _workers(redis)


def _embedded_url(settings: Settings) -> str | None:
    """The socket of the server that a running `serve` has, if it is there."""
    if not settings.data_dir.is_dir():
        return None
    socket = socket_path(settings.data_dir)
    return f"unix://{socket}?db=0" if socket.exists() else None


def _can_be_started() -> Finding:
    try:
        return ok(ABOUT, f"`umekomi serve` starts its own: {server_program()}")
    except NoValkey as none:
        return fail(ABOUT, "there is none, and no program to start one", str(none))


def judge(info: Mapping[str, Any]) -> Iterator[Finding]:
    """What INFO says."""
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info.get("redis_version") or "?")
    mode = str(info.get("server_mode") or info.get("redis_mode") or "standalone")
    where = f"{name} {version}, {mode}"
    if _numbers(version) < LEAST_VERSION:
        yield fail(ABOUT, f"{where}: too old", "install Valkey, or Redis 7.0 or newer: answers are waited for with BLMPOP")
    elif mode == "cluster" or info.get("cluster_enabled"):
        yield fail(ABOUT, f"{where}: the keys of a question lie on several nodes", "use one server, or Sentinel for failover")
    elif mode == "sentinel":
        yield fail(ABOUT, f"{where}: this is Sentinel itself", "name the master that it watches in --redis-url")
    elif info.get("role") not in (None, "master"):
        yield fail(ABOUT, f"{where}: a replica, which nobody can write to", "name its master in --redis-url")
    else:
        yield ok(ABOUT, where)
    if info.get("loading"):
        yield warn(ABOUT, "still reads its file", "wait until it has")
    yield from _judge_memory(info)
    yield from _judge_persistence(info)
    clients, most = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    if most and clients > 0.8 * most:
        yield warn(ABOUT, f"{clients:,} of {most:,} connections are taken", "raise maxclients; each waiting client needs one")


def _judge_memory(info: Mapping[str, Any]) -> Iterator[Finding]:
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    policy = str(info.get("maxmemory_policy", "noeviction"))
    total = int(info.get("total_system_memory", 0))
    if policy != "noeviction" and most:
        yield fail(
            ABOUT,
            f"maxmemory-policy is {policy}: when {gib(most)} are full, waiting questions are thrown away",
            "CONFIG SET maxmemory-policy noeviction, and the same in its configuration file",
        )
    elif policy != "noeviction":
        yield warn(
            ABOUT,
            f"maxmemory-policy is {policy}; it does nothing until somebody sets maxmemory",
            "CONFIG SET maxmemory-policy noeviction",
        )
    elif most and used > 0.8 * most:
        yield warn(
            ABOUT, f"{gib(used)} of maxmemory {gib(most)} are in use", "raise maxmemory, or lower interactive_max_waiting_bytes"
        )
    elif total and used > 0.8 * total:
        yield warn(ABOUT, f"uses {gib(used)} of the machine's {gib(total)}", "give it a machine with more memory")
    else:
        yield ok(ABOUT, f"noeviction, {gib(used)} in use" + (f" of {gib(most)}" if most else ""))


def _judge_persistence(info: Mapping[str, Any]) -> Iterator[Finding]:
    failing = [
        what
        for what, name in (
            ("the append-only file", "aof_last_write_status"),
            ("rewriting the append-only file", "aof_last_bgrewrite_status"),
            ("the snapshot", "rdb_last_bgsave_status"),
        )
        if info.get(name, "ok") != "ok"
    ]
    if failing:
        yield fail(
            ABOUT, f"could not write: {', '.join(failing)}", "see its log; is its disk full? It may refuse writes until then"
        )
    elif not info.get("aof_enabled"):
        yield warn(
            ABOUT,
            "appendonly is off: when it restarts, waiting questions and limits are lost (jobs are rebuilt from storage)",
            "CONFIG SET appendonly yes, and the same in its configuration file",
        )
    else:
        yield ok(ABOUT, "appendonly is on, and writes")


def judge_latency(pings_ms: list[float]) -> Finding:
    """By the median of some pings."""
    median = statistics.median(pings_ms)
    said = f"answers in {median:.2f} ms"
    if median > VERY_SLOW_MS:
        return fail(ABOUT, said, "bring it nearer: a question makes four trips to it")
    if median > SLOW_MS:
        return warn(ABOUT, said, "bring it nearer, or raise --window so that workers wait less for shards")
    return ok(ABOUT, said)


def judge_skew(skew_s: float) -> Finding:
    """Positive: this machine is ahead."""
    said = f"its clock and ours differ by {abs(skew_s):.2f} s"
    if abs(skew_s) > BAD_SKEW_S:
        return fail("clock", said, "run chrony or another NTP client on both: deadlines are compared across machines")
    return warn("clock", said, "run chrony or another NTP client on both") if abs(skew_s) > SKEW_S else ok("clock", said)


def _pings_ms(redis: Redis) -> list[float]:
    took = []
    for _ in range(PINGS):
        began = time.perf_counter()
        redis.ping()
        took.append((time.perf_counter() - began) * 1000)
    return took


def _skew_s(redis: Redis) -> float:
    before = time.time()
    seconds, microseconds = redis.time()
    return (before + time.time()) / 2 - (seconds + microseconds / 1e6)


def _workers(redis: Redis) -> Iterator[Finding]:
    """Who lives, and what they cannot serve."""
    try:
        workers = PresenceBoard(redis).workers()
    except NoPermissionError as error:
        yield fail("workers", f"may not be read in Redis: {error}", "let the user of --redis-url use every command")
        return
    if not workers:
        yield ok("workers", "none lives now")
    for worker in workers:
        where = f"{worker.host} process {worker.pid} on {worker.device}"
        ready = [name for name, model in worker.models.items() if model.state == "ready"]
        yield ok("workers", f"{where}: {', '.join(ready) or 'no model'} loaded")
        if worker.version not in ("", umekomi_version()):
            yield warn(
                "workers", f"{where} runs umekomi {worker.version}, this is {umekomi_version()}", "let all be of one version"
            )
        for name, model in worker.models.items():
            if model.state == "failed":
                reason = model.reason or "no reason was given"
                yield fail(
                    "workers", f"{where}: {name} failed: {reason}", "correct its entry, or its files; then restart the worker"
                )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
