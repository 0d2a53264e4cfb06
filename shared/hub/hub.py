"""Hub: one model hub or mirror. What it says of a repository, and a file of it, byte for byte, taken up where it broke off."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RevisionNotFoundError,
)
from tenacity import RetryCallState, Retrying, retry_if_exception_type

from shared.hub.progress import DownloadCancelled, DownloadFailed

logger = logging.getLogger(__name__)

# A hub that is not there is known to be away after about ten seconds, however it is away.
CONNECT_TIMEOUT_S = 5.0
# Silence in the middle of a file: then the connection counts as broken and the rest is asked for anew.
READ_TIMEOUT_S = 15.0
# Tries in a row that brought nothing of a file; and of asking what a repository holds, where somebody waits.
TRIES = 3
LISTING_TRIES = 2
MAX_PAUSE_S = 4.0


@dataclass(frozen=True, slots=True)
class RepoFile:
    """One file of a repository."""

    name: str  # with / between folders; never outside of the repository
    size: int | None  # bytes
    sha256: str | None  # of files in LFS
    blob_id: str | None  # git's id of the others


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit."""

    commit: str
    files: tuple[RepoFile, ...]


class BrokenOff(Exception):
    """The connection broke or the hub is busy: the same again may go on."""


@dataclass(frozen=True, slots=True)
class Hub:
    """Where models are fetched from and where they are kept."""

    endpoint: str
    token: str | None = field(repr=False)
    cache: Path
    is_offline: bool = False
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    read_timeout_s: float = READ_TIMEOUT_S
    pause_s: float = 0.5  # after the first failed try; it doubles

    @classmethod
    def of_environment(cls, *, offline: bool = False) -> Hub:
        """As HF_ENDPOINT, HF_TOKEN (or `hf auth login`), HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE say."""
        return cls(
            endpoint=(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/"),
            token=get_token(),
            cache=Path(constants.HF_HUB_CACHE),
            is_offline=offline or constants.HF_HUB_OFFLINE,
        )

    def listing(self, hub_id: str, revision: str | None) -> Listing:
        """The files of a repository. Raises DownloadFailed."""
        what = hub_id if revision is None else f"{hub_id} at revision {revision}"
        api = HfApi(endpoint=self.endpoint, token=self.token or False, library_name="umekomi")

        def ask() -> Any:
            try:
                return api.model_info(hub_id, revision=revision, files_metadata=True, timeout=self.connect_timeout_s)
            except HFValidationError as error:
                raise DownloadFailed(f"{hub_id!r} is no id of a repository: {error}") from None
            except HfHubHTTPError as error:
                raise self._refusal(error, hub_id, revision) from error
            except Exception as error:
                if not _is_of_network(error):
                    raise
                raise BrokenOff(_short(error)) from error

        found = self._retried(ask, what, tries=LISTING_TRIES)
        files = tuple(
            RepoFile(
                _checked(file.rfilename, hub_id),
                file.lfs.size if file.lfs else file.size,
                file.lfs.sha256 if file.lfs else None,
                file.blob_id,
            )
            for file in found.siblings or ()
        )
        if not found.sha:
            raise DownloadFailed(f"{self.endpoint} does not say which commit {what} is")
        return Listing(found.sha, files)

    def connect(self) -> httpx.Client:
        """For the files of one repository, one after another."""
        # Compressed on its way, a file could not be taken up in the middle.
        headers = {"User-Agent": "umekomi", "Accept-Encoding": "identity"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"  # httpx drops it where a redirect leads to another host
        timeout = httpx.Timeout(self.read_timeout_s, connect=self.connect_timeout_s)
        return httpx.Client(timeout=timeout, headers=headers, follow_redirects=True)

    def download(
        self,
        http: httpx.Client,
        hub_id: str,
        commit: str,
        file: RepoFile,
        part: Path,
        *,
        on_bytes: Callable[[int], None],
        is_cancelled: Callable[[], bool],
    ) -> None:
        """Write what is missing of the file to the end of `part`; `on_bytes` hears its length.

        Raises DownloadFailed, DownloadCancelled, and OSError if it cannot be written. What is there stays.
        """
        url = hf_hub_url(hub_id, file.name, revision=commit, endpoint=self.endpoint)
        self._retried(
            lambda: self._try(http, url, hub_id, commit, file, part, on_bytes, is_cancelled),
            f"{file.name} of {hub_id}",
            how_far=lambda: part.stat().st_size if part.exists() else 0,
            is_cancelled=is_cancelled,
        )

    def _try(
        self,
        http: httpx.Client,
        url: str,
        hub_id: str,
        commit: str,
        file: RepoFile,
        part: Path,
        on_bytes: Callable[[int], None],
        is_cancelled: Callable[[], bool],
    ) -> None:
        begin = part.stat().st_size if part.exists() else 0
        if file.size is not None and begin == file.size:
            part.touch()  # an empty file has nothing to ask for
            on_bytes(begin)
            return
        if file.size is not None and begin > file.size:
            os.truncate(part, 0)
            begin = 0
        with self._over_the_network(), http.stream("GET", url, headers={"Range": f"bytes={begin}-"} if begin else {}) as response:
            if response.status_code == 416:
                os.truncate(part, 0)
                raise BrokenOff("the hub has no bytes after those that are here")
            if response.is_error:
                raise self._refused(response.status_code, response.headers.get("X-Error-Code"), hub_id, commit)
            if begin and not response.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
                os.truncate(part, 0)  # it does not know ranges, and sends all of it
                begin = 0
            with part.open("ab", buffering=0) as sink:
                on_bytes(begin)
                # As they come: what is gathered into larger blocks is lost when the connection breaks.
                for block in response.iter_bytes():
                    if is_cancelled():
                        raise DownloadCancelled
                    sink.write(block)
                    begin += len(block)
                    on_bytes(begin)
        if file.size is not None and begin != file.size:
            if begin > file.size:
                os.truncate(part, 0)
            raise BrokenOff(f"{begin} of {file.size} bytes came")

    @contextmanager
    def _over_the_network(self) -> Any:
        try:
            yield
        except (httpx.TransportError, httpx.TooManyRedirects, httpx.DecodingError) as error:
            raise BrokenOff(_short(error)) from error

    def _retried(
        self,
        attempt: Callable[[], Any],
        what: str,
        *,
        tries: int = TRIES,
        how_far: Callable[[], int] = lambda: 0,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Any:
        """Until it succeeds, or a few tries in a row got no further. Raises DownloadFailed with what was tried."""
        began, reached, fruitless = time.monotonic(), how_far(), 0

        def has_enough(state: RetryCallState) -> bool:
            nonlocal reached, fruitless
            now_reached = how_far()
            fruitless = fruitless + 1 if now_reached <= reached else 1
            reached = now_reached
            error = state.outcome.exception() if state.outcome is not None else None
            logger.debug("download broke off", extra={"what": what, "reason": str(error), "tries": fruitless})
            return fruitless >= tries

        def pause(seconds: float) -> None:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                if is_cancelled():
                    raise DownloadCancelled
                time.sleep(min(left, 0.1))

        retrying = Retrying(
            retry=retry_if_exception_type(BrokenOff),
            stop=has_enough,
            wait=lambda _: min(self.pause_s * 2 ** (fruitless - 1), MAX_PAUSE_S),
            sleep=pause,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except BrokenOff as error:
            seconds = time.monotonic() - began
            raise DownloadFailed(
                f"{what} could not be fetched from {self.endpoint}: {error}; tried {fruitless} times in {seconds:.0f} s. "
                "HF_ENDPOINT names another hub; with the files on this machine, name their directory in parameters.model",
                may_retry=True,
            ) from error

    def _refusal(self, error: HfHubHTTPError, hub_id: str, revision: str | None) -> Exception:
        code: str | None
        if isinstance(error, GatedRepoError):
            code = "GatedRepo"
        elif isinstance(error, RevisionNotFoundError):
            code = "RevisionNotFound"
        else:
            code = None
        return self._refused(error.response.status_code, code, hub_id, revision)

    def _refused(self, status: int, code: str | None, hub_id: str, revision: str | None) -> Exception:
        """What a status of the hub means to the person who asked for the model."""
        is_known = "HF_TOKEN is not set" if self.token is None else "the token in HF_TOKEN may not read it"
        if status == 429 or status == 408 or status >= 500:
            return BrokenOff(f"the hub answered {status}")
        if code == "GatedRepo":
            return DownloadFailed(
                f"{hub_id} is gated ({status}): accept its conditions at {self.endpoint}/{hub_id} and set HF_TOKEN to a token "
                f"of that account; {is_known}"
            )
        if code == "RevisionNotFound":
            return DownloadFailed(f"{hub_id} has no revision {revision} at {self.endpoint}")
        if status in (401, 403):
            return DownloadFailed(
                f"{self.endpoint} gives nobody {hub_id} without the right token ({status}): it is private, or does not exist; "
                f"{is_known}"
            )
        if status == 404:
            return DownloadFailed(f"there is no repository {hub_id} at {self.endpoint} (404)")
        return DownloadFailed(f"{self.endpoint} answered {status} for {hub_id}")


def _checked(name: str, hub_id: str) -> str:
    """A name from the network, before it comes near the file system."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\\" in name or "\0" in name or str(path) != name:
        raise DownloadFailed(f"{hub_id} names a file outside of itself: {name!r}")
    return name


def _is_of_network(error: Exception) -> bool:
    """Whichever HTTP library the hub's client uses: it has changed twice."""
    kinds = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(kinds & {"httpx", "httpx2", "requests", "urllib3"}) or isinstance(error, ConnectionError | TimeoutError)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200].rstrip(": ")
