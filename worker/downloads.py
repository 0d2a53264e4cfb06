"""Models of the hub on their way to this machine: a thread for each, so that no download holds up another, or a load."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from shared import metrics
from shared.hub import DownloadCancelled, DownloadFailed, Fetching, Hub, Progress, fetch
from shared.logs import get_logger
from shared.models import ModelConfig
from shared.presence import DownloadPresence

logger = get_logger(__name__)

# Who waits looks again so often whether the model will be there in time.
TELL_EVERY_S = 1.0
# How fast it comes is told once it was measured for so long.
MEASURE_S = 1.0
STOP_JOIN_S = 5.0

OnProgress = Callable[[DownloadPresence], None]


def fetch_model(
    hub: Hub,
    config: ModelConfig,
    hub_id: str,
    on_progress: Callable[[Progress], None] = lambda _: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Path:
    """The folder of a model's files, and the code that they refer to beside it. Raises DownloadFailed, DownloadCancelled."""
    folder = fetch(hub, Fetching(hub_id=hub_id, revision=config.revision, on_progress=on_progress, is_cancelled=is_cancelled))
    if config.trust_remote_code:
        for lender in code_repositories(folder):
            fetch(hub, Fetching(hub_id=lender, code_only=True, is_cancelled=is_cancelled))
    return folder


def code_repositories(folder: Path) -> list[str]:
    """The repositories that a model's configuration takes its code from: `auto_map: {AutoModel: org/other--module.Class}`."""
    try:
        says = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        references = [value for value in says.get("auto_map", {}).values() if isinstance(value, str)]
    except (OSError, ValueError, AttributeError):
        return []
    return sorted({reference.partition("--")[0] for reference in references if "--" in reference})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What came of a download: a folder, or an error."""

    key: tuple[str, str | None, bool]  # hub id, revision, with code
    folder: Path | None = None
    error: Exception | None = None
    is_cancelled: bool = False  # which is an error too

    def is_of(self, config: ModelConfig, hub_id: str) -> bool:
        """Whether these are the files that the entry wants, or would be."""
        return self.key == _key(config, hub_id)


@dataclass(slots=True)
class _Download:
    is_cancelled: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class Downloads:
    """At most one for each served model. Thread-safe."""

    def __init__(self, hub: Hub, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._hub = hub
        self._clock = clock
        self._lock = threading.Lock()
        self._all: dict[str, _Download] = {}

    def begin(self, config: ModelConfig, hub_id: str, *, on_progress: OnProgress, then: Callable[[Fetched], None]) -> None:
        """Start bringing a model; `then` is called when that ended, well or not, from the download's thread.

        `on_progress` is called about once a second, and only if something has to be fetched.
        """
        download = _Download()
        with self._lock:
            before = self._all.get(config.name)
            if before is not None:
                before.is_cancelled.set()
            self._all[config.name] = download
        download.thread = threading.Thread(
            target=lambda: then(self._fetch(config, hub_id, download, on_progress)), name=f"download-{config.name}", daemon=True
        )
        download.thread.start()

    def cancel(self, name: str) -> None:
        """Nobody wants it any more; what is there is kept for the next time."""
        with self._lock:
            download = self._all.get(name)
        if download is not None:
            download.is_cancelled.set()

    def stop(self) -> None:
        """End all of them; what is there is kept."""
        with self._lock:
            downloads = list(self._all.values())
        for download in downloads:
            download.is_cancelled.set()
        until = time.monotonic() + STOP_JOIN_S
        for download in downloads:
            if download.thread is not None:
                download.thread.join(max(0.0, until - time.monotonic()))

    def _fetch(self, config: ModelConfig, hub_id: str, download: _Download, on_progress: OnProgress) -> Fetched:
        told, key = Pace(self._clock), _key(config, hub_id)

        def tell(progress: Progress) -> None:
            presence = told.add(progress)
            if presence is not None:
                on_progress(presence)

        try:
            fetched = Fetched(key=key, folder=fetch_model(self._hub, config, hub_id, tell, download.is_cancelled.is_set))
        except DownloadCancelled:
            error = DownloadFailed("the download was cancelled", may_retry=True)
            fetched = Fetched(key=key, error=error, is_cancelled=True)
        except Exception as failed:  # whatever it is, it is why the model is not there
            fetched = Fetched(key=key, error=failed)
        outcome = "fetched" if fetched.error is None else "cancelled" if fetched.is_cancelled else "failed"
        metrics.DOWNLOADS.inc(1, outcome)
        if fetched.error is not None:
            logger.warning("model not fetched", model=config.name, hub_id=hub_id, reason=str(fetched.error))
        return fetched


class Pace:
    """Progress as it comes, told once in a while with the time that is left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: tuple[float, int] | None = None
        self._told_at = -TELL_EVERY_S

    def add(self, progress: Progress) -> DownloadPresence | None:
        """What to tell now; None if it was told a moment ago, or there is nothing to fetch."""
        if progress.done_bytes >= progress.total_bytes:
            return None
        now = self._clock()
        if self._began is None:
            self._began = now, progress.done_bytes
        if now - self._told_at < TELL_EVERY_S:
            return None
        self._told_at = now
        seconds, came_bytes = now - self._began[0], progress.done_bytes - self._began[1]
        eta_s = None
        if seconds >= MEASURE_S and came_bytes > 0:
            eta_s = round((progress.total_bytes - progress.done_bytes) * seconds / came_bytes, 1)
        return DownloadPresence(
            done_bytes=progress.done_bytes,
            total_bytes=progress.total_bytes,
            done_files=progress.done_files,
            total_files=progress.total_files,
            eta_s=eta_s,
        )


def _key(config: ModelConfig, hub_id: str) -> tuple[str, str | None, bool]:
    return hub_id, config.revision, config.trust_remote_code
