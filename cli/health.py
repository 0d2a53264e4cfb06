"""Health of the process in this container, as its exit code: `python -m cli.health web`, `… worker` or `… worker-ready`.

The first two tell whether a restart would help, and nothing else: with Redis away both are healthy, and /readyz says what is
missing. The third tells whether a rollout may go on: the worker has its models, so an older one can leave its work to it.
"""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import closing
from queue import Empty, SimpleQueue
from urllib.request import ProxyHandler, build_opener

from redis.exceptions import RedisError

from shared.connections import connect
from shared.presence import PresenceBoard, WorkerPresence
from shared.settings import Settings, load_settings

TIMEOUT_S = 3.0
# What a server that listens everywhere is called from its own machine.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def check_web(settings: Settings) -> str | None:
    """None if /healthz says 200 within TIMEOUT_S, else what is wrong."""
    host, _, port = settings.address.rpartition(":")
    url = f"http://{_LOOPBACK.get(host, host)}:{port}/healthz"
    try:
        # Proxies of the environment are for the outside.
        with build_opener(ProxyHandler({})).open(url, timeout=TIMEOUT_S):
            return None
    except OSError as error:
        return f"{url}: {error}"


def check_worker(settings: Settings) -> str | None:
    """None if a worker of this host renewed its presence lately, which only a moving engine does; else what is wrong."""
    host = socket.gethostname()
    workers = _workers(settings.broker)
    if workers is None:
        return None  # nobody can tell, and a restart would lose the loaded models for nothing
    return None if any(worker.host == host for worker in workers) else f"no worker on {host} renewed its presence lately"


def check_worker_ready(settings: Settings) -> str | None:
    """None if a live worker of this host loads no model any more and can serve one; else what is missing."""
    host = socket.gethostname()
    here = [worker for worker in _workers(settings.broker) or () if worker.host == host]
    states = {model.state for worker in here for model in worker.models.values()}
    if states & {"loading", "downloading"}:
        return "models are being loaded"
    return None if states & {"ready", "available"} else f"no worker on {host} serves a model"


def _workers(redis_url: str) -> list[WorkerPresence] | None:
    """Every live worker; None if Redis does not tell within TIMEOUT_S."""
    found: SimpleQueue[list[WorkerPresence] | None] = SimpleQueue()

    def look() -> None:
        try:
            with closing(connect(redis_url)) as redis:
                found.put(PresenceBoard(redis).workers())
        except RedisError:
            found.put(None)

    # A thread, because no socket timeout bounds the resolution of a name: 5 s and more while that name's container is away.
    threading.Thread(target=look, name="look", daemon=True).start()
    try:
        return found.get(timeout=TIMEOUT_S)
    except Empty:
        return None


CHECKS = {"web": check_web, "worker": check_worker, "worker-ready": check_worker_ready}


def main(arguments: list[str]) -> int:
    """0: healthy. 1: not, with the reason on standard error. 2: called wrongly."""
    if len(arguments) != 1 or arguments[0] not in CHECKS:
        print(f"usage: python -m cli.health {'|'.join(CHECKS)}", file=sys.stderr)
        return 2
    problem = CHECKS[arguments[0]](load_settings())
    if problem is not None:
        print(problem, file=sys.stderr)
    return 0 if problem is None else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
