"""gunicorn's processes count together: in files of a directory that lives as long as the process that forks them."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from shared import counting

_NAME = re.compile(r"umekomi-metrics-(\d+)-")


def begin(processes: int) -> None:
    """Called by the process that forks, each time its configuration is read. A single process counts in its own memory.

    Raises OSError if there is no place for temporary files.
    """
    if processes > 1 and _own() is None:
        remove_left_over()
        counting.count_together(tempfile.mkdtemp(prefix=f"umekomi-metrics-{os.getpid()}-"))


def end() -> None:
    """The process that forked ends."""
    if directory := _own():
        shutil.rmtree(directory, ignore_errors=True)


def remove_left_over() -> None:
    """Directories of ours whose process was killed: it is gone, or its number is ours, as in a container started anew."""
    for directory in Path(tempfile.gettempdir()).glob("umekomi-metrics-*"):
        found = _NAME.match(directory.name)
        try:
            if found is not None and directory.stat().st_uid == os.getuid() and not _lives(int(found[1])):
                shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            pass  # somebody was quicker


def _own() -> str | None:
    """The directory that this very process made: one that was inherited over an exec belongs to another."""
    directory = counting.counts_together()
    found = _NAME.match(Path(directory).name) if directory else None
    return directory if found is not None and int(found[1]) == os.getpid() else None


def _lives(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
