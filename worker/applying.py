"""Applied models: a thread looks for wishes, and one for each of them fetches its model and writes its entry."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import yaml
from redis.exceptions import RedisError

from shared.downloads import MAX_ATTEMPTS, Download, DownloadBoard, State, Wish
from shared.hub import DownloadCancelled, DownloadFailed, Hub, Progress
from shared.logs import get_logger
from shared.models import ModelConfig, find_source
from worker.downloads import fetch_model
from worker.threads import essential_thread

logger = get_logger(__name__)

LOOK_EVERY_S = 1.0
STOP_JOIN_S = 5.0


class _Run:
    """A wish that this worker has."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.state = State(message="looking at the repository")
        self.is_ended = threading.Event()  # cancelled, lost to another worker, or this one stops
        self.thread: threading.Thread | None = None

    @property
    def is_over(self) -> bool:
        return self.thread is not None and not self.thread.is_alive()

    def progress(self, progress: Progress) -> None:
        self.state = State(
            message="downloading",
            file=progress.file,
            done_bytes=progress.done_bytes,
            total_bytes=progress.total_bytes,
            done_files=progress.done_files,
            total_files=progress.total_files,
        )


class Applier:
    """`on_applied` is called when an entry was written: the configuration is to be read, and everybody told."""

    def __init__(
        self, board: DownloadBoard, hub: Hub, models_directory: Path, worker_id: str, on_applied: Callable[[], None]
    ) -> None:
        self._board = board
        self._hub = hub
        self._directory = models_directory
        self._worker_id = worker_id
        self._on_applied = on_applied
        self._runs: dict[str, _Run] = {}
        self._stopping = threading.Event()
        self._thread = essential_thread(self._look_all, "applier")

    def start(self) -> None:
        """Begin to look for wishes."""
        self._thread.start()

    def drain(self) -> None:
        """Take nothing new; what is on its way is left to another worker."""
        self._stopping.set()
        for run in list(self._runs.values()):
            run.is_ended.set()

    def stop(self) -> None:
        """End the threads. What was fetched so far is kept."""
        self.drain()
        if self._thread.ident is not None:
            self._thread.join()

    def _look_all(self) -> None:
        is_heard = True
        while not self._stopping.is_set():
            try:
                self.look()
                is_heard = True
            except RedisError as error:
                if is_heard:
                    logger.warning("applied models not looked for", error=type(error).__name__)
                is_heard = False
            except Exception:
                logger.exception("applied models not looked for")
            self._stopping.wait(LOOK_EVERY_S)
        for run in self._runs.values():
            if run.thread is not None:
                run.thread.join(STOP_JOIN_S)
            try:
                self._tell(run)
            except RedisError:
                pass  # its lease runs out

    def look(self) -> None:
        """Take what nobody has, and tell how far that is what we have. Raises RedisError."""
        for download_id, run in list(self._runs.items()):
            if self._tell(run):
                del self._runs[download_id]
        for download in self._board.all():
            if download.state.is_over or download.wish.id in self._runs or self._stopping.is_set():
                continue
            if self._board.hold(download.wish.id, self._worker_id):
                self._begin(download)

    def _begin(self, download: Download) -> None:
        wish = download.wish
        if self._board.attempt(wish.id) > MAX_ATTEMPTS:
            self._board.write(wish, State(message="failed", is_over=True, error=f"{MAX_ATTEMPTS} workers died fetching it"))
            return
        run = self._runs[wish.id] = _Run(wish)
        if download.is_cancelled:
            run.is_ended.set()
        run.thread = threading.Thread(target=self._apply, args=(run,), name=f"apply-{wish.name}", daemon=True)
        run.thread.start()

    def _tell(self, run: _Run) -> bool:
        """Write its state; whether that was its last."""
        is_over = run.is_over  # before the state is read: it may end while this is written
        if not self._board.hold(run.wish.id, self._worker_id):
            logger.warning("applied model taken by another worker", model=run.wish.name)
            run.is_ended.set()
        elif self._stopping.is_set() and (not is_over or run.state.error is not None):
            self._board.release(run.wish.id, self._worker_id)  # it ended because this worker does
        elif self._board.write(run.wish, run.state):
            run.is_ended.set()
        return is_over

    def _apply(self, run: _Run) -> None:
        """Everything that ends it well or not becomes its state, which the other thread tells."""
        wish, error = run.wish, None
        try:
            self._fetch(run)
            self._write_entry(wish)
            self._on_applied()
        except DownloadCancelled:
            error = "cancelled; what was fetched is kept, and applying it again goes on from there"
        except DownloadFailed as failed:
            error = failed.message
        except Exception as failed:
            logger.exception("model not applied", model=wish.name)
            error = f"{type(failed).__name__}: {failed}"[:500]
        before = run.state
        run.state = State(
            message="completed" if error is None else "failed",
            is_over=True,
            error=error,
            file=before.file,
            done_bytes=before.done_bytes,
            total_bytes=before.total_bytes,
            done_files=before.done_files,
            total_files=before.total_files,
        )
        log = logger.info if error is None else logger.warning
        log("model applied" if error is None else "model not applied", model=wish.name, reason=error)

    def _fetch(self, run: _Run) -> None:
        config = ModelConfig.model_validate(run.wish.entry)
        try:
            source = find_source(config, self._directory)
        except (OSError, ImportError, ValueError) as error:
            raise DownloadFailed(str(error)) from error
        if source.hub_id is not None:
            fetch_model(self._hub, config, source.hub_id, run.progress, run.is_ended.is_set)

    def _write_entry(self, wish: Wish) -> None:
        """Whole or not at all, since the directory is watched. Raises DownloadFailed."""
        text = "# Written by POST /models/apply; yours to edit.\n"
        text += yaml.safe_dump([dict(wish.entry)], allow_unicode=True, sort_keys=False)
        part = self._directory / f".{wish.file}.{os.getpid()}"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            part.write_text(text, encoding="utf-8")
            part.replace(self._directory / wish.file)
        except OSError as error:
            raise DownloadFailed(f"{self._directory} cannot be written: {error.strerror or error}") from error
