"""The device a worker computes on, and how many batches it runs side by side there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# NVIDIA's, the same under WSL and on Jetson, and AMD's.
_GPUS = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-gpu", "/dev/nvmap", "/dev/kfd")
_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def resolve_device(wanted: str) -> str:
    """`auto` becomes cuda, mps or cpu, whichever is there; anything else stays. Imports torch only where a GPU may be."""
    if wanted != "auto":
        return wanted
    if sys.platform == "linux" and not any(map(os.path.exists, _GPUS)):
        return "cpu"
    try:
        import torch
    except ImportError:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def cores(cpu_max: Path = _CGROUP_CPU_MAX) -> int:
    """Cores that this process may use: its affinity, and its container's share where that is less. At least 1."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text().split()
        share = usable if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        share = usable
    return max(1, min(usable, round(share)))
