"""The device a worker computes on, and how many batches it runs side by side there."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def resolve_device(wanted: str) -> str:
    """`auto` becomes cuda, mps or cpu, whichever is there; anything else stays. Imports torch for `auto` only."""
    if wanted != "auto":
        return wanted
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
