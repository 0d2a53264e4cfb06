"""A worker's /metrics: a small HTTP server of its own, in its own threads, on METRICS_ADDRESS."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client import Metric as Family
from prometheus_client.registry import Collector

from shared import counting, metrics
from shared.build import umekomi_version
from shared.counting import Reading
from shared.logs import get_logger
from worker.backends.memory import device_memory

logger = get_logger(__name__)

# Workers of one host share the setting: each takes the first port that is free.
PORTS = 64
# A scraper that says nothing is let go.
SCRAPE_WITHIN_S = 10.0
_POLL_S = 0.2  # how soon it notices that it is to end


class Standing(Collector):
    """How the worker stands, looked up when it is asked."""

    def __init__(self, device: str, waiting_tokens: Callable[[], Mapping[str, int]]) -> None:
        self._device = device
        self._waiting_tokens = waiting_tokens

    def describe(self) -> list[Family]:
        """Nothing is looked up to register it."""
        return []

    def collect(self) -> Iterator[Family]:
        """The families."""
        yield _family(metrics.BUILD_INFO, {umekomi_version(): 1})
        yield _family(metrics.ENGINE_WAITING_TOKENS, self._waiting_tokens())
        memory = device_memory(self._device)
        if memory is not None:
            used, total = memory
            yield _family(metrics.DEVICE_MEMORY_USED, {None: used})
            yield _family(metrics.DEVICE_MEMORY_TOTAL, {None: total})


class MetricsServer:
    """Serves /metrics, or does nothing. A worker without it works: whatever goes wrong here is only said."""

    def __init__(self, address: str, standing: Standing) -> None:
        """`address`: host:port, or "" for none."""
        self._address = address
        self._standing = standing
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int | None:
        """Where it listens; None if it does not."""
        return None if self._server is None else self._server.server_port

    def start(self) -> None:
        """Listen on the address, or on the first port above it that is free."""
        if not self._address:
            return
        registry = counting.registry_of(metrics.metrics_of("worker"))
        registry.register(self._standing)
        host, _, first = self._address.rpartition(":")
        reason = ""
        for port in range(int(first), min(int(first) + PORTS, 65536)):
            try:
                self._server = _Server.listening(host.strip("[]"), port, registry)
                break
            except OSError as error:
                reason = error.strerror or type(error).__name__
                if error.errno != errno.EADDRINUSE:
                    break
        if self._server is None:
            logger.error("metrics not served", address=self._address, reason=reason)
            return
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), name="metrics", daemon=True)
        self._thread.start()
        logger.info("metrics served", host=host, port=self.port)

    def stop(self) -> None:
        """Close it."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Else two workers could have the same port, and a scraper would hear now the one, now the other.
    allow_reuse_port = False
    registry: CollectorRegistry

    @classmethod
    def listening(cls, host: str, port: int, registry: CollectorRegistry) -> _Server:
        """Raises OSError."""
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        kind = type("_Server", (cls,), {"address_family": family, "registry": registry})
        server: _Server = kind((host, port), _Answer)
        return server

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's signature
        """A scraper that went away is none of our errors."""
        logger.debug("scrape not answered", exc_info=True)


class _Answer(BaseHTTPRequestHandler):
    timeout = SCRAPE_WITHIN_S
    server: _Server

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        body, content_type = counting.told(self.server.registry, self.headers.get("Accept", ""))
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for every scrape says nothing."""


def _family(reading: Reading, values: Mapping[Any, float]) -> Family:
    family = reading.family()
    for label, value in values.items():
        family.add_metric(() if label is None else (label,), float(value))
    return family
