"""A closed loop: so many clients, each sends its next request when its last one is answered, on one connection each.

http.client, for what measures must not be what is measured: on one core it sends 5,000 to 7,000 requests/s with 1 to 64
clients, where httpx sends 20 to 1,000 and httpcore 1,500 to 2,300 (an embedding of 384 numbers, two cores of a server).
"""

from __future__ import annotations

import contextlib
import http.client
import resource
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from urllib.parse import urlsplit

import httpx
import orjson

from cli.bench.result import Latency, RunResult
from cli.bench.texts import Texts

# After a failure a client waits for so long: a server that is away is not to be hammered, nor to look fast.
PAUSE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """What every client sends, and where."""

    url: str
    headers: Mapping[str, str]
    model: str | None
    encoding: str
    batch: int
    texts: Texts
    timeout_s: float

    def bodies(self, client: int) -> Iterator[bytes]:
        """One client's, for ever."""
        fixed = {"encoding_format": self.encoding} | ({"model": self.model} if self.model is not None else {})
        texts = self.texts(client)
        while True:
            batch = list(islice(texts, self.batch))
            yield orjson.dumps(fixed | {"input": batch if self.batch > 1 else batch[0]})


@dataclass(frozen=True, slots=True)
class _Sample:
    """One request; `problem` is "" if it was answered."""

    sent_at: float  # perf_counter
    done_at: float
    problem: str
    tokens: int | None


@dataclass(slots=True)
class _Client:
    """One thread with one connection."""

    requests: Requests
    number: int
    connect: Callable[[], http.client.HTTPConnection]
    until: Callable[[], bool]
    stopping: threading.Event
    samples: list[_Sample] = field(default_factory=list)
    connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        """Until the time is over."""
        path = urlsplit(self.requests.url).path
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **self.requests.headers}
        for body in self.requests.bodies(self.number):
            if self.until():
                break
            sent_at = time.perf_counter()
            try:
                status, content = self._exchange(path, body, headers)
            except Exception as error:
                status, content, problem = 0, b"", _kind(error)
                self._drop()
            else:
                problem = "" if status == 200 else f"HTTP {status}"
            done_at = time.perf_counter()
            tokens = None
            if not problem:
                problem, tokens = _look(content, self.requests.batch)
            if self.stopping.is_set():
                break  # what was cut short by Ctrl-C is no failure
            self.samples.append(_Sample(sent_at, done_at, problem, tokens))
            if problem:
                self.stopping.wait(PAUSE_S)
        self._drop()

    def _exchange(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Sends it once more if the server had closed the connection meanwhile, as it may between two requests."""
        is_reused = self.connection is not None
        try:
            return self._send(path, body, headers)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            if not is_reused or self.stopping.is_set():
                raise
        self._drop()
        return self._send(path, body, headers)

    def _send(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        if self.connection is None:
            self.connection = self.connect()
        self.connection.request("POST", path, body, headers)
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.will_close:
            self._drop()
        return answer.status, content

    def _drop(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def interrupt(self) -> None:
        """Wake the thread, whatever it waits for; from another thread."""
        connection = self.connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def run(requests: Requests, clients: int, *, warm_up_s: float, seconds: float, beside_job: bool = False) -> RunResult:
    """Warm up, then measure. Ctrl-C ends it early: then `is_whole` is False."""
    connect = _connector(requests)
    stopping = threading.Event()
    begin = time.perf_counter() + warm_up_s
    end = begin + seconds
    crew = [
        _Client(requests, number, connect, lambda: stopping.is_set() or time.perf_counter() >= end, stopping)
        for number in range(clients)
    ]
    threads = [threading.Thread(target=client.run, name=f"client {client.number}", daemon=True) for client in crew]
    cpu_s, cpu_from = _cpu_s(), time.perf_counter()
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        stopping.set()
        for client in crew:
            client.interrupt()
        for thread in threads:
            if thread.ident is not None:
                thread.join(timeout=1.0)
    cpu = (_cpu_s() - cpu_s) / max(time.perf_counter() - cpu_from, 1e-9)
    samples = [sample for client in crew for sample in list(client.samples) if sample.sent_at >= begin]
    return _result(samples, begin, clients, requests.batch, cpu, beside_job=beside_job, is_whole=not stopping.is_set())


def _result(
    samples: Sequence[_Sample], begin: float, clients: int, batch: int, cpu: float, *, beside_job: bool, is_whole: bool
) -> RunResult:
    answered = [sample for sample in samples if not sample.problem]
    counted = [sample.tokens for sample in answered if sample.tokens is not None]
    return RunResult(
        clients=clients,
        seconds=max((sample.done_at for sample in samples), default=begin) - begin,
        requests=len(answered),
        texts=len(answered) * batch,
        tokens=sum(counted) if answered and len(counted) == len(answered) else None,
        errors=dict(Counter(sample.problem for sample in samples if sample.problem).most_common()),
        latency_ms=Latency.of([(sample.done_at - sample.sent_at) * 1000 for sample in answered]),
        client_cpu=round(cpu, 3),
        beside_job=beside_job,
        is_whole=is_whole,
    )


def _connector(requests: Requests) -> Callable[[], http.client.HTTPConnection]:
    parts = urlsplit(requests.url)
    host, port, timeout_s = parts.hostname or "", parts.port, requests.timeout_s
    if parts.scheme != "https":
        return lambda: http.client.HTTPConnection(host, port, timeout=timeout_s)
    context: ssl.SSLContext = httpx.create_ssl_context()  # as the other commands trust
    return lambda: http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)


def _look(content: bytes, batch: int) -> tuple[str, int | None]:
    """What is wrong with an answer of status 200, and the tokens of its usage."""
    try:
        wire = orjson.loads(content)
        if len(wire["data"]) != batch:
            return "wrong number of vectors", None
        usage = wire.get("usage") or {}
        tokens = usage.get("total_tokens") or usage.get("prompt_tokens")
        return "", tokens if isinstance(tokens, int) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return "not an answer with vectors", None


def _kind(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "host name not known"
    if isinstance(error, ssl.SSLError):
        return "TLS"
    if isinstance(error, OSError | http.client.HTTPException):
        return "connection broke"
    return type(error).__name__


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
