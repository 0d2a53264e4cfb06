"""ApiClient: what the commands ask a running server, over HTTP; its refusals as one sentence each."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

import click
import httpx

from cli.corpus import Corpus, blocks

DEFAULT_URL = "http://127.0.0.1:8080"
JOBS = "/v1/embeddings/jobs"
# One synchronous request waits for its answer up to 25 s on the server; a whole upload is answered when it is stored.
ANSWER_TIMEOUT_S = 60.0
UPLOAD_TIMEOUT_S = 600.0
UPLOAD_TRIES = 5
# A stream of changes is kept alive every 15 s.
SILENCE_S = 40.0
FINISHED = frozenset({"completed", "failed", "cancelled", "expired"})


class Refused(click.ClickException):
    """The server refused the request; sending it again changes nothing."""

    exit_code = 1

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status  # HTTP's, if it was the server that refused
        self.code = code  # the error body's


class TryAgain(click.ClickException):
    """The server cannot be reached, or is busy."""

    exit_code = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """A job as the server tells it."""

    id: str
    status: str
    model: str
    total: int
    completed: int
    failed: int
    truncated: int
    tokens: int
    texts_per_second: float | None
    eta_s: float | None
    created_at: float  # unix seconds
    reason: str | None
    wire: Mapping[str, Any]  # the whole answer, for --json

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> JobStatus:
        """Raises Refused if it is not a job."""
        try:
            counts = wire["counts"]
            return cls(
                id=wire["id"],
                status=wire["status"],
                model=wire["model"],
                total=counts["total"],
                completed=counts["completed"],
                failed=counts["failed"],
                truncated=counts.get("truncated") or 0,
                tokens=wire.get("tokens") or 0,
                texts_per_second=wire.get("texts_per_second"),
                eta_s=wire.get("eta_seconds"),
                created_at=wire["created_at"],
                reason=wire.get("reason"),
                wire=wire,
            )
        except (KeyError, TypeError):
            raise Refused("the answer is not a job of umekomi's; is --url right?") from None

    @property
    def is_finished(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in FINISHED


@dataclass(frozen=True, slots=True)
class Download:
    """An answer that is read while it comes."""

    blocks: Iterator[bytes]
    is_complete: bool  # nothing will come after it: the job is done
    tag: str | None = None  # while it is the same, so are the file's bytes; None: they may change
    begin: int = 0  # position in the file of the first byte that comes


class ApiClient:
    """Methods raise Refused or TryAgain, whose messages are for the person at the terminal."""

    def __init__(self, url: str, api_key: str | None, *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        if "://" not in url:
            url = f"http://{url}"
        self.url = url.rstrip("/").removesuffix("/v1")
        try:
            host = urlsplit(self.url).hostname or ""
            self._http = httpx.Client(
                base_url=self.url,
                headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
                timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 5.0)),
                # A proxy of the environment cannot reach this machine's own loopback.
                trust_env=host not in ("127.0.0.1", "::1", "localhost"),
            )
        except (ValueError, httpx.InvalidURL) as error:
            raise click.UsageError(f"--url {url}: {error}") from None
        except UnicodeEncodeError:
            raise click.UsageError("--api-key: has characters that no API key has") from None

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    # Now

    def embed(self, texts: list[str], **parameters: Any) -> tuple[list[list[float]], Mapping[str, Any]]:
        """The vectors in order, and the usage; parameters that are None are left out."""
        body = {"input": texts, "encoding_format": "float"} | _given(parameters)
        wire = self.call("POST", "/v1/embeddings", json=body)
        return [row["embedding"] for row in sorted(wire["data"], key=lambda row: row["index"])], wire.get("usage", {})

    def models(self) -> list[Mapping[str, Any]]:
        """Every served model, as the server tells it."""
        models: list[Mapping[str, Any]] = self.call("GET", "/v1/models")["data"]
        return models

    def readiness(self) -> tuple[int, Mapping[str, Any]]:
        """The status and the body of /readyz, whether it says yes or no; an empty body if it is none of umekomi's."""
        with self._as_sentences():
            response = self._http.get("/readyz")
        try:
            body = response.json()
        except ValueError:
            body = None
        return response.status_code, body if isinstance(body, Mapping) else {}

    # Jobs

    def submit(self, corpus: Corpus, parameters: Mapping[str, Any], key: str | None, on_sent: Callable[[int], None]) -> JobStatus:
        """Stream the corpus to the server. `on_sent` hears the bytes sent so far, from 0 again after a broken connection.

        A broken upload is sent again under the same Idempotency-Key, so that it cannot become two jobs.
        """
        headers = {"Idempotency-Key": key or uuid.uuid4().hex} | corpus.headers
        if corpus.size_bytes is not None:
            headers["Content-Length"] = str(corpus.size_bytes)
        tries = UPLOAD_TRIES if corpus.path is not None else 1  # standard input is gone once it was read
        for attempt in range(1, tries + 1):
            try:
                with corpus.open() as source:
                    wire = self.call(
                        "POST",
                        JOBS,
                        params=_given(parameters),
                        headers=headers,
                        content=blocks(source, on_sent),
                        timeout=httpx.Timeout(UPLOAD_TIMEOUT_S, connect=5.0),
                    )
                return JobStatus.from_wire(wire)
            except TryAgain:
                if attempt == tries:
                    raise
                time.sleep(min(0.5 * 2.0**attempt, 8.0))
        raise AssertionError("the last try returns or raises")

    def job(self, job_id: str) -> JobStatus:
        """How a job stands."""
        return JobStatus.from_wire(self.call("GET", _job(job_id)))

    def changes(self, job_id: str) -> Iterator[JobStatus]:
        """How a job stands, now and whenever that changed, until the server has no more to tell."""
        for wire in self.events(f"{_job(job_id)}/events"):
            if wire.get("deleted"):
                raise Refused(f"job {job_id} was deleted")
            yield JobStatus.from_wire(wire)

    def events(self, path: str) -> Iterator[dict[str, Any]]:
        """The data of each server-sent event of a route, until the server has no more to tell."""
        with (
            self._as_sentences(),
            self._http.stream("GET", path, timeout=httpx.Timeout(SILENCE_S, connect=5.0)) as response,
        ):
            if response.is_error:
                response.read()
                raise _refusal(response)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise Refused("this server tells no changes")
            for line in response.iter_lines():
                # One line of data an event; of their names and ids nothing is needed.
                if line.startswith("data: "):
                    yield _parse(line.removeprefix("data: "))

    def jobs(self, status: str | None, limit: int) -> list[JobStatus]:
        """The newest jobs, newest first."""
        found: list[JobStatus] = []
        while len(found) < limit:
            after = found[-1].id if found else None
            query = _given({"status": status, "limit": min(limit - len(found), 100), "after": after})
            page = self.call("GET", JOBS, params=query)
            found += [JobStatus.from_wire(wire) for wire in page["data"]]
            if not page.get("has_more") or not page["data"]:
                break
        return found

    def act(self, job_id: str, action: str) -> JobStatus:
        """cancel, pause, resume or retry, which is answered when the failed rows are written anew."""
        return JobStatus.from_wire(self.call("POST", f"{_job(job_id)}/{action}", timeout=UPLOAD_TIMEOUT_S))

    def delete(self, job_id: str) -> None:
        """The job and its files."""
        self.call("DELETE", _job(job_id))

    @contextmanager
    def download(self, job_id: str, what: str, *, begin: int = 0, tag: str | None = None, **query: Any) -> Iterator[Download]:
        """`results` or `errors` of what is committed; from the byte `begin` on if the file still has this tag, else all of it."""
        headers = {"Accept-Encoding": "identity"}
        if begin and tag is not None:
            headers |= {"Range": f"bytes={begin}-", "If-Range": f'"{tag}"'}
        url = f"{_job(job_id)}/{what}"
        with (
            self._as_sentences(),
            self._http.stream("GET", url, params=_given(query), headers=headers, timeout=UPLOAD_TIMEOUT_S) as response,
        ):
            if response.status_code == 416 and response.headers.get("Content-Range") == f"bytes */{begin}":
                yield Download(iter(()), True, tag, begin)  # it was all there
                return
            if response.is_error:
                response.read()
                raise _refusal(response)
            is_complete = response.headers.get("x-umekomi-complete") != "false"
            found = response.headers.get("ETag", "").strip('"') or None
            yield Download(response.iter_bytes(), is_complete, found, begin if response.status_code == 206 else 0)

    # The wire

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries: the API key, if there is one."""
        return {"Authorization": self._http.headers["Authorization"]} if "Authorization" in self._http.headers else {}

    def call(self, method: str, path: str, **options: Any) -> Any:
        """A request as httpx takes it, and the JSON of its answer; {} if it has none."""
        with self._as_sentences():
            response = self._http.request(method, path, **options)
        if response.is_error:
            raise _refusal(response)
        if response.status_code == 204 or not response.content:
            return {}
        try:
            return response.json()
        except ValueError:
            raise Refused(f"{self.url} answered with something that is not JSON; is --url right?") from None

    @contextmanager
    def _as_sentences(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError:
            raise TryAgain(
                f"no server answers at {self.url}. Start one with `umekomi serve`, or say where it is: --url (UMEKOMI_URL)"
            ) from None
        except httpx.UnsupportedProtocol:
            raise click.UsageError(f"--url {self.url}: must start with http:// or https://") from None
        except httpx.TimeoutException:
            raise TryAgain(f"{self.url} did not answer in time") from None
        except httpx.TransportError as error:
            raise TryAgain(f"the connection to {self.url} broke: {error or type(error).__name__}") from None


def api_command(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator, the innermost one: adds --url and --api-key, and calls the command with the `client` that they make."""

    @click.option(
        "--url",
        envvar="UMEKOMI_URL",
        default=DEFAULT_URL,
        metavar="URL",
        help=f"The server.  [UMEKOMI_URL; default: {DEFAULT_URL}]",
    )
    @click.option(
        "--api-key", envvar="UMEKOMI_API_KEY", metavar="KEY", help="API key; rather set the variable.  [UMEKOMI_API_KEY]"
    )
    @wraps(command)
    def with_client(*, url: str, api_key: str | None, **given: Any) -> None:
        with closing(ApiClient(url, api_key)) as client:
            command(client=client, **given)

    return with_client


def _refusal(response: httpx.Response) -> click.ClickException:
    """The server's error body as one sentence; 429 and 5xx may be tried again."""
    try:
        error = response.json()["error"]
        message, param, code = str(error["message"]), error.get("param"), error.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, param, code = f"the server answered {response.status_code} {response.reason_phrase}", None, None
    if param and str(param) not in message:
        message += f" (parameter {param})"
    if response.status_code == 401:
        message += "; set UMEKOMI_API_KEY or --api-key"
    if response.status_code == 429 or response.status_code >= 500:
        return TryAgain(message)
    return Refused(message, status=response.status_code, code=str(code) if code else None)


def _parse(text: str) -> dict[str, Any]:
    try:
        wire = json.loads(text)
    except ValueError:
        wire = None
    if not isinstance(wire, dict):
        raise Refused("an event of the server's is not a JSON object")
    return wire


def _given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _job(job_id: str) -> str:
    if not job_id or not job_id.replace("_", "").replace("-", "").isalnum():
        raise click.UsageError(f"{job_id!r} is not a job's id")
    return f"{JOBS}/{job_id}"
