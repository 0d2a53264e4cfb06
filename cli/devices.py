"""Devices as --devices names them: one worker process each."""

from __future__ import annotations

import os
import re
import subprocess

from shared.settings import Settings

_SEVERAL = re.compile(r"(cuda|mps|cpu|xpu)(:\d+)?|\d+")


class NoDevices(Exception):
    """--devices names no device, or one that cannot be meant."""


def worker_devices(settings: Settings) -> list[str]:
    """The device of each worker to run, as --device takes it. Without --devices one worker, on --device.

    `all`: every NVIDIA GPU that this process may see; otherwise a list with commas, where 0 stands for cuda:0.
    Raises NoDevices. Imports nothing of the model libraries.
    """
    if not settings.devices:
        return [settings.device]
    if settings.devices == "all":
        count = _gpus()
        if count == 0:
            raise NoDevices("--devices all: no NVIDIA GPU is seen here (nvidia-smi lists none)")
        return [f"cuda:{number}" for number in range(count)]
    names = [name.strip() for name in settings.devices.split(",") if name.strip()]
    if not names:
        raise NoDevices(f"--devices: {settings.devices!r} names none; it takes `all`, or such as cuda:0,cuda:1")
    for name in names:
        if not _SEVERAL.fullmatch(name):
            raise NoDevices(f"--devices: {name!r} is no device; it takes `all`, or such as cuda:0,cuda:1")
    return [f"cuda:{name}" if name.isdigit() else name for name in names]


def _gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # CUDA counts those that it may see from 0, whatever they are called outside, and stops at -1.
        names = [name.strip() for name in visible.split(",")]
        return len(names[: names.index("-1")] if "-1" in names else [name for name in names if name])
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
