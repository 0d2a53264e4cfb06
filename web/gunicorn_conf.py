"""gunicorn -c web/gunicorn_conf.py web.wsgi:app -- everything else comes from UMEKOMI_* variables."""

from __future__ import annotations

import sys
from typing import Any

from shared import counting, traces
from shared.access import KnownKeys
from shared.access.known import is_loopback
from shared.allocator import bound_memory
from shared.garbage import settle
from shared.settings import load_settings
from web import admission, counting_together
from web.parts import EXTENSION

_settings = load_settings()

wsgi_app = "web.wsgi:app"
bind = [_settings.address]
worker_class = "web.gunicorn_worker.ApiWorker"
logger_class = "web.gunicorn_worker.ApiLogger"
workers = _settings.web_processes
threads = admission.threads(_settings.web_threads)
# More connections than threads: those that are kept alive between requests hold no thread.
worker_connections = max(1000, 4 * threads)
# The app opens connections and starts a thread: both belong to the process that serves, not to the one that forks.
preload_app = False
# The main loop of a process beats every second while its threads serve, so an upload may take all night;
# a process whose loop hangs for so long is replaced.
timeout = 60
# Whoever waits for vectors has them by then; a longer upload or download is cut, and its client comes back.
graceful_timeout = min(30, int(_settings.interactive_timeout_s) + 2)
# Above the idle time of usual load balancers, so that it is they who close.
keepalive = 75
# Our own hook logs requests: without texts, queries and keys.
accesslog = None
loglevel = _settings.log_level
control_socket_disable = True
proc_name = "umekomi-web"


try:
    counting_together.begin(workers)
except OSError as problem:
    # A scrape then tells of one process only, which is no reason not to serve.
    print(f"metrics of the processes are not added up: {problem}", file=sys.stderr)


def when_ready(server: Any) -> None:
    """Say it once, loudly, if anybody on the network may use this server."""
    if not is_loopback(_settings.address) and KnownKeys.of(_settings).is_open:
        server.log.warning(
            "ANYBODY who reaches %s may use this server, it has no API key: set UMEKOMI_API_KEYS or run `umekomi keys create`",
            _settings.address,
        )


def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """There are no threads yet."""
    bound_memory()


def post_worker_init(worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """The app is there."""
    settle()


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """Answer whoever still waits, end the thread, close the connections."""
    app = getattr(worker, "wsgi", None)
    if app is not None:
        app.extensions[EXTENSION].close()
    traces.shut_down()


def child_exit(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """What the process held, it holds no longer."""
    counting.forget_process(worker.pid)


def on_exit(server: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """No process counts any more."""
    counting_together.end()
