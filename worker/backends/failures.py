"""What torch raises on a device, told apart: no room, a device that is broken for this process, or the model's own failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from worker.backends import DeviceBroken, OutOfMemory

# After an error of CUDA's own (an illegal access, a failed assertion on the device) nothing works in this process any more.
_BROKEN: tuple[type[BaseException], ...] = (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
# cuBLAS has memory of its own, and says so in its own words; so has whatever asks the driver itself, such as pinned memory.
_NO_ROOM = (
    *("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
    *("MPS backend out of memory", "DefaultCPUAllocator", "ENOMEM"),
)


@contextmanager
def told_apart(device: str) -> Iterator[None]:
    """Raises OutOfMemory or DeviceBroken for torch's errors that say so; any other error goes on."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        said = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(sign in said for sign in _NO_ROOM):
            if device.startswith("cuda"):
                torch.cuda.empty_cache()
            raise OutOfMemory from None
        if isinstance(error, _BROKEN):
            raise DeviceBroken(said) from error
        raise
