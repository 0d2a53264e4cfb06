"""How a server's memory is to come and go: bodies and tables of megabytes, on some hundred threads.

Ten minutes of mixed load (bench.soak) had taken web from 115 to 163 MB and the worker from 419 to 493.
"""

from __future__ import annotations

import ctypes
import sys

import pyarrow as pa

# glibc's names for what mallopt sets.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
# Each of glibc's arenas keeps what was free in it, and threads would get eight a core: two do where one thread runs at a time.
ARENAS = 2
# A larger block is the kernel's again as soon as it is free. By itself glibc raises this with every one that it sees.
MAPPED_FROM_BYTES = 2**20


def bound_memory() -> None:
    """For web, before there are threads."""
    tables_from_malloc()
    mallopt(M_ARENA_MAX, ARENAS)
    mallopt(M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)


def tables_from_malloc() -> None:
    """Arrow's own allocator keeps what a large table needed, for the next one.

    This is for the tables that we make; what Arrow's readers use is settled where the processes are started (cli/processes.py).
    """
    pa.set_memory_pool(pa.system_memory_pool())


def mallopt(option: int, value: int) -> None:
    """Set one of glibc's options; does nothing where there is another allocator."""
    found = getattr(libc(), "mallopt", None)
    if found is not None:
        found(option, value)


def libc() -> ctypes.CDLL | None:
    """The C library of this process; None if it is not Linux."""
    return ctypes.CDLL(None) if sys.platform == "linux" else None
