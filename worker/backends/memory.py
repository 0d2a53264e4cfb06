"""What models take of the device's memory, and how it is given back to the operating system."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.allocator import M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, libc, mallopt

# Endings of the files that hold weights, of which a folder may have several for the same model; the first there is counts.
_WEIGHTS = (".safetensors", ".bin", ".onnx")
# While a model loads, whatever is at least so large gets pages of its own, which go back when it is freed ...
_LOADING_BYTES = 64 * 2**10
# ... and afterwards what a batch needs for a moment is taken from the heap again: mapping pages anew costs time.
_RUNNING_BYTES = 32 * 2**20  # glibc's upper limit


def memory_in_use(device: str) -> int:
    """Bytes: of the device, what torch has given out there; on a CPU, what the process has in RAM."""
    if device.startswith("cuda"):
        if "torch" not in sys.modules:
            return 0  # nothing was loaded yet
        import torch

        return int(torch.cuda.memory_allocated(device))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0  # no Linux
    return pages * os.sysconf("SC_PAGE_SIZE")


def device_memory(device: str) -> tuple[int, int] | None:
    """Bytes in use by anybody and bytes there are: of a GPU, or of the host. None if nobody can tell."""
    if device.startswith("cuda"):
        if "torch" not in sys.modules:
            return None  # nothing was loaded yet, and a look would take some hundred MB of the GPU
        import torch

        free, total = torch.cuda.mem_get_info(device)
        return total - free, total
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        told = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        return told["MemTotal"] - told["MemAvailable"], told["MemTotal"]
    except (OSError, ValueError, IndexError, KeyError):
        return None  # no Linux


def weights_bytes(directory: Path | None) -> int:
    """How large the weights in a model's folder are; 0 if it has none, or is not known yet."""
    if directory is None:
        return 0
    for ending in _WEIGHTS:
        found = [path for folder in (directory, directory / "onnx") for path in folder.glob(f"*{ending}")]
        try:
            if total := sum(path.stat().st_size for path in found):
                return total
        except OSError:
            continue
    return 0


def one_heap() -> None:
    """Let all threads share the heap that can be given back; called before they start.

    malloc_trim leaves the free end of every other heap alone, up to 64 MB for each thread that ran batches. Large blocks
    are few, and small ones come from each thread's own cache: no slower. Measured (bench/residency.py, all-MiniLM-L6-v2,
    batches of 4,096 tokens in two threads): 29 MB left after unloading, 125 MB with a heap for each thread.
    """
    mallopt(M_ARENA_MAX, 1)


@contextmanager
def own_pages() -> Iterator[None]:
    """Inside, large blocks get pages of their own, so that a model leaves no holes in the heap that others grow around.

    Measured as in `one_heap`: 29 to 34 MB left after each of six unloads, and 30 to 80 MB without it.
    """
    mallopt(M_MMAP_THRESHOLD, _LOADING_BYTES)
    try:
        yield
    finally:
        mallopt(M_MMAP_THRESHOLD, _RUNNING_BYTES)
        mallopt(M_TRIM_THRESHOLD, 2 * _RUNNING_BYTES)


def give_back(device: str) -> None:
    """Return what was freed to the device and the operating system, which torch and glibc keep unless they are told."""
    gc.collect()
    if device.startswith("cuda") and "torch" in sys.modules:
        import torch

        torch.cuda.empty_cache()
    trim = getattr(libc(), "malloc_trim", None)
    if trim is not None:
        trim(0)
