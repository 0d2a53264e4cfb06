"""GPUs: what the driver sees and what torch sees, each asked in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from cli.doctor.finding import Finding, fail, gib, ok, warn
from shared.settings import Settings

ABOUT = "gpu"
TORCH_S = 90.0
LITTLE_BYTES = 2 * 2**30
_QUERY = "index,name,driver_version,memory.total,memory.used"
_ASK_TORCH = """
import json, torch
from torch import cuda
seen = cuda.is_available()
print(json.dumps({"built_for": torch.version.cuda or torch.version.hip, "sees": cuda.device_count() if seen else 0,
                  "capabilities": [list(cuda.get_device_capability(i)) for i in range(cuda.device_count())] if seen else [],
                  "architectures": cuda.get_arch_list() if seen else []}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One card, as the driver tells."""

    number: str
    name: str
    driver: str
    total_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Torch:
    """What torch says of itself."""

    version: str
    built_for: str | None  # CUDA's version; None: it is for CPUs alone
    sees: int  # GPUs
    unsupported: tuple[str, ...] = ()  # what this build has no code for, such as sm_120


def check_gpus(settings: Settings) -> Iterator[Finding]:
    """torch is only asked where there is a GPU or one is wanted: its import takes seconds."""
    gpus = ask_driver()
    torch_version = _version_of_torch()
    if torch_version is None:
        yield warn(
            "torch", "is not installed here: no worker runs on this machine", "pip install 'umekomi[worker]', if one should"
        )
        return
    if not gpus and not settings.device.startswith("cuda"):
        yield ok(ABOUT, f"none; workers use the CPU (torch {torch_version})")
        return
    yield from judge(gpus, ask_torch(torch_version), settings)


def judge(gpus: list[Gpu], torch: Torch | None, settings: Settings) -> Iterator[Finding]:
    """The driver's story against torch's."""
    for gpu in gpus:
        free = gpu.total_bytes - gpu.used_bytes
        said = f"{gpu.number}: {gpu.name}, {gib(free)} of {gib(gpu.total_bytes)} free, driver {gpu.driver}"
        if free < LITTLE_BYTES:
            yield warn(ABOUT, said, "see who uses it (nvidia-smi); a model of 100 M parameters needs about 1 GiB")
        else:
            yield ok(ABOUT, said)
    if settings.device == "cpu":
        yield ok(ABOUT, "not used: --device cpu")
        return
    if torch is None:
        yield fail("torch", "cannot be imported", f"{sys.executable} -c 'import torch' says why")
        return
    said = f"torch {torch.version}"
    if not gpus:
        yield fail(
            ABOUT,
            f"--device {settings.device}, but nvidia-smi sees no GPU",
            "install NVIDIA's driver; in a container: --gpus all",
        )
    elif torch.built_for is None:
        yield fail(
            "torch",
            f"{said} is for CPUs alone",
            "install torch for CUDA: pip install torch --index-url https://download.pytorch.org/whl/cu126",
        )
    elif torch.sees == 0:
        advice = f"look at CUDA_VISIBLE_DEVICES; else install a driver for CUDA {torch.built_for}, or a torch for the driver's"
        yield fail(
            "torch",
            f"{said} for CUDA {torch.built_for} sees no GPU, nvidia-smi sees {len(gpus)} (driver {gpus[0].driver})",
            advice,
        )
    elif torch.unsupported:
        yield fail(
            "torch",
            f"{said} has no code for this GPU ({', '.join(torch.unsupported)})",
            "install a newer torch, for a newer CUDA",
        )
    else:
        yield ok("torch", f"{said} for CUDA {torch.built_for} sees {torch.sees} GPU{'s' if torch.sees > 1 else ''}")


def ask_driver() -> list[Gpu]:
    """[] if there is no driver or no card."""
    try:
        said = subprocess.run(
            ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return read_driver(said.stdout)


def read_driver(text: str) -> list[Gpu]:
    """A line for each card; memory in MiB, or [N/A] where it is shared with the machine."""
    gpus = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 5 and fields[0].isdecimal():
            total, used = (int(field) * 2**20 if field.isdecimal() else 0 for field in fields[3:])
            gpus.append(Gpu(number=fields[0], name=fields[1], driver=fields[2], total_bytes=total, used_bytes=used))
    return gpus


def ask_torch(version: str) -> Torch | None:
    """None if it cannot be imported."""
    try:
        said = subprocess.run(
            [sys.executable, "-P", "-c", _ASK_TORCH], capture_output=True, text=True, timeout=TORCH_S, check=True
        )
        wire = json.loads(said.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return Torch(
        version=version,
        built_for=wire["built_for"],
        sees=wire["sees"],
        unsupported=unsupported(wire["capabilities"], wire["architectures"]),
    )


def unsupported(capabilities: list[list[int]], architectures: list[str]) -> tuple[str, ...]:
    """The cards' capabilities that no architecture of the build is for: same major version, no later minor one."""
    built = [int(name[3:].rstrip("af")) for name in architectures if name.startswith("sm_") and name[3:].rstrip("af").isdecimal()]
    later = [int(name[8:]) for name in architectures if name.startswith("compute_") and name[8:].isdecimal()]
    missing = []
    for major, minor in capabilities:
        fits = any(each // 10 == major and each % 10 <= minor for each in built) or any(
            each <= 10 * major + minor for each in later
        )
        if architectures and not fits:
            missing.append(f"sm_{major}{minor}")
    return tuple(dict.fromkeys(missing))


def _version_of_torch() -> str | None:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
