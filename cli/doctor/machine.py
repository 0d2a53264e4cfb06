"""This machine: cores and what of them a container may use, vector instructions, memory, open files, the address."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from cli.doctor.finding import Finding, fail, gib, ok, warn
from cli.serve import local_address, port_problem
from shared.access import KnownKeys
from shared.settings import Settings

LEAST_FILES = 4096
LITTLE_MEMORY_BYTES = 2 * 2**30
_LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+|\[?::1\]?|localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """What this process may use."""

    installed: int
    usable: int  # by its affinity
    quota: float | None  # by its control group; None: no limit
    is_old_cgroup: bool = False  # whose limit workers do not see by themselves

    @classmethod
    def of_system(cls, root: Path = Path("/sys/fs/cgroup")) -> Cores:
        """As Linux tells; elsewhere only how many there are."""
        installed = os.cpu_count() or 1
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else installed
        quota, is_old = None, False
        if (words := _read(root / "cpu.max").split()) and words[0].isdecimal():
            quota = int(words[0]) / int(words[1])
        elif (old := _read(root / "cpu" / "cpu.cfs_quota_us")).isdecimal():
            quota, is_old = int(old) / int(_read(root / "cpu" / "cpu.cfs_period_us") or 100_000), True
        return cls(installed=installed, usable=usable, quota=quota, is_old_cgroup=is_old)


def check_cpu(settings: Settings) -> Iterator[Finding]:
    """Cores, streams, instructions."""
    yield judge_cores(Cores.of_system(), settings)
    flags = set(re.findall(r"^flags\s*:(.*)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)[:1])
    words = {word for line in flags for word in line.split()}
    if words:
        yield judge_instructions(words)


def judge_cores(cores: Cores, settings: Settings) -> Finding:
    """Streams and threads against what may be used."""
    may_use = cores.usable if cores.quota is None else min(cores.usable, cores.quota)
    whole = max(1, int(may_use))
    said = f"{may_use:g} of {cores.installed} cores may be used" if may_use != cores.installed else f"{cores.installed} cores"
    wanted = max(settings.streams, settings.threads)
    if wanted > whole:
        return warn("cpu", f"{said}, and {wanted} streams or threads are set", f"set --streams {whole} --threads {whole}")
    if (
        cores.quota is not None
        and cores.is_old_cgroup
        and cores.quota < cores.usable
        and not (settings.streams and settings.threads)
    ):
        return warn("cpu", f"{said}, which workers do not see (cgroup v1)", f"set --streams {whole} --threads {whole}")
    if may_use < 1:
        return warn("cpu", said, "give it one core at least: a batch is stopped again and again in its middle")
    return ok("cpu", said)


def judge_instructions(flags: set[str]) -> Finding:
    """The vector instructions that a model on a CPU lives on."""
    if "avx512f" in flags:
        return ok("cpu", "has AVX-512" + (" with VNNI, good for int8" if "avx512_vnni" in flags else ""))
    if "avx2" in flags:
        return ok("cpu", "has AVX2")
    return warn(
        "cpu",
        "has neither AVX2 nor AVX-512: models run several times slower",
        "use another machine or a GPU; virtual machines may hide them (CPU type host)",
    )


def check_limits() -> Iterator[Finding]:
    """Memory and open files."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(Path("/sys/fs/cgroup/memory.max")) or _read(Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
    may_use = min(total, int(limit)) if limit.isdecimal() else total
    said = f"{gib(may_use)} of memory" + (f", of {gib(total)}: the container's limit" if may_use < total else "")
    if may_use < LITTLE_MEMORY_BYTES:
        yield warn("memory", said, "give it 2 GiB at least: the libraries alone take half of one")
    else:
        yield ok("memory", said)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < LEAST_FILES:
        at_most = (
            ""
            if hard == resource.RLIM_INFINITY or hard >= LEAST_FILES
            else f" (the hard limit is {hard:,}: LimitNOFILE, --ulimit)"
        )
        yield warn("files", f"{soft:,} may be open at a time", f"ulimit -n 65536{at_most}: each connection is one")
    else:
        yield ok(
            "files", "as many may be open as there are" if soft == resource.RLIM_INFINITY else f"{soft:,} may be open at a time"
        )


def check_address(settings: Settings) -> Iterator[Finding]:
    """Whether the API can listen, and who can reach it."""
    problem = port_problem(settings.address)
    if problem is None:
        yield ok("address", f"{settings.address} is free")
    elif _is_umekomi(settings.address):
        yield ok("address", f"an umekomi listens on {settings.address}")
    else:
        sentence, _, advice = problem.partition("; ")
        yield fail("address", sentence, advice or "give another --address (UMEKOMI_ADDRESS)")
    host = settings.address.rpartition(":")[0]
    is_open = KnownKeys.of(settings).is_open
    if is_open and not _LOOPBACK.fullmatch(host):
        yield warn(
            "keys", f"everybody who reaches {settings.address} may use it: there is no API key", "umekomi keys create --name …"
        )
    else:
        yield ok("keys", "none is set; only this machine reaches it" if is_open else "an API key is asked for")


def _is_umekomi(address: str) -> bool:
    try:
        answer = httpx.get(f"http://{local_address(address)}/readyz", timeout=3.0, trust_env=False)
        return "missing" in answer.json()
    except (httpx.HTTPError, ValueError, TypeError):
        return False


def _read(file: Path) -> str:
    """ "" if there is no such file."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
