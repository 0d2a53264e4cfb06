"""Memory and processor time of processes, read from /proc."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

MEGABYTE = 2**20


def resident_bytes(pid: int) -> int:
    """Of one process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except (FileNotFoundError, ProcessLookupError):
        return 0


def cpu_seconds(pid: int) -> float:
    """Processor time of one process so far, user's and system's; 0 if it is gone."""
    try:
        # The name, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """The process and its children."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(descendant for child in children for descendant in family(int(child)))]


@contextmanager
def watched(pids: Mapping[str, Callable[[], Iterable[int]]]) -> Iterator[dict[str, list[int]]]:
    """By name, twenty times a second while the block runs: resident bytes of the largest of its processes."""
    seen: dict[str, list[int]] = {name: [] for name in pids}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            for name, find in pids.items():
                seen[name].append(max(map(resident_bytes, find()), default=0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


def trend(samples: list[int]) -> str:
    """How it went: at a quarter of the time, at half, at the end, at most."""
    if not samples:
        return "-"
    quarter, half = samples[len(samples) // 4], samples[len(samples) // 2]
    return " / ".join(f"{value / MEGABYTE:.0f}" for value in (quarter, half, samples[-1], max(samples))) + " MB"
