"""Pulling: a model of the hub fetched to this machine, with a bar for each file, or a line where there is no terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from cli.client import Refused, TryAgain
from shared.models.config import HUB_MODEL
from shared.settings import load_settings

if TYPE_CHECKING:
    from shared.hub import Progress

STOPPED_EXIT_CODE = 130


class Display(Protocol):
    """What is seen of a download."""

    def tell(self, progress: Progress) -> None:
        """It went on."""


def read_id(text: str, revision: str | None) -> tuple[str, str | None]:
    """The id and the revision in any spelling. Raises UsageError."""
    found = HUB_MODEL.fullmatch(text)
    if found is None:
        raise click.UsageError(f"{text!r} is no model of the hub; an id is spelled org/name, hf://org/name or as its link")
    if revision is not None and found["revision"] not in (None, revision):
        raise click.UsageError(f"--revision is {revision}, but the id says {found['revision']}")
    return found["id"], revision or found["revision"]


def pull_model(hub_id: str, revision: str | None, to: Path | None) -> None:
    """Fetch it and print its directory. Raises Refused, TryAgain; ends the process with 130 at Ctrl-C."""
    try:
        from shared.hub import DownloadFailed, Fetching, Hub, fetch
    except ImportError as error:
        raise Refused(f"models pull needs the Python package {error.name}: pip install 'umekomi[worker]'") from None
    hub = Hub.of_environment(offline=load_settings().offline)
    wish = Fetching(hub_id=hub_id, revision=revision, to=None if to is None else to.expanduser().absolute(), is_fresh=True)
    try:
        if sys.stderr.isatty():
            with _bars() as bars:
                folder = fetch(hub, wish.telling(BarDisplay(bars).tell))
        else:
            folder = fetch(hub, wish.telling(LineDisplay().tell))
    except DownloadFailed as error:
        raise (TryAgain if error.may_retry else Refused)(error.message) from None
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on from here", err=True)
        sys.exit(STOPPED_EXIT_CODE)
    click.echo(str(folder))


class BarDisplay:
    """A bar for each file that has to come."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def tell(self, progress: Progress) -> None:
        """See Display."""
        if not progress.file:
            return
        if progress.file not in self._tasks:
            self._tasks[progress.file] = self._bars.add_task(progress.file, total=progress.file_bytes)
        self._bars.update(self._tasks[progress.file], completed=progress.file_done_bytes)


class LineDisplay:
    """A line for all of it, and one for each file that came."""

    def __init__(self) -> None:
        self._has_begun = False
        self._done_files = 0

    def tell(self, progress: Progress) -> None:
        """See Display."""
        if not self._has_begun:
            self._has_begun, self._done_files = True, progress.done_files
            left_bytes = progress.total_bytes - progress.done_bytes
            missing = progress.total_files - progress.done_files
            click.echo(f"{missing} of {progress.total_files} files to fetch, {left_bytes / 1e6:.1f} MB", err=True)
        if progress.done_files > self._done_files:
            self._done_files = progress.done_files
            size = f"{progress.file_bytes / 1e6:.1f} MB"
            click.echo(f"{progress.done_files} of {progress.total_files}: {progress.file}, {size}", err=True)


def _bars() -> Bars:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Bars(*columns, console=Console(stderr=True))
