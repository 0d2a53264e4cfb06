"""How a server's memory is to come and go: bodies and tables of megabytes, on some hundred threads.

Ten minutes of mixed load (bench.soak) had taken web from 115 to 163 MB and the worker from 419 to 493.
"""

from __future__ import annotations

import ctypes

import pyarrow as pa

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
# Each of glibc's arenas keeps what was free in it, and threads would get eight a core: two do where one thread runs at a time.
ARENAS = 2
# A larger block is the kernel's again as soon as it is free. By itself glibc raises this with every one that it sees.
MAPPED_FROM_BYTES = 2**20


def bound_memory() -> None:
    """For web, before there are threads."""
    tables_from_malloc()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)


def tables_from_malloc() -> None:
    """Arrow's own allocator keeps what a large table needed, for the next one."""
    pa.set_memory_pool(pa.system_memory_pool())
