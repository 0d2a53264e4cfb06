"""BenchResult: what a bench found, as it is shown, kept in a file and compared with another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
from pydantic import TypeAdapter, ValidationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds from the first byte sent to the last one received, of the requests that were answered."""

    p50: float
    p90: float
    p99: float
    max: float
    mean: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Latency | None:
        """None if nothing was answered."""
        if not milliseconds:
            return None
        ordered = sorted(milliseconds)
        p50, p90, p99 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.9, 0.99))
        return cls(p50=p50, p90=p90, p99=p99, max=ordered[-1], mean=sum(ordered) / len(ordered))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What so many clients at a time found."""

    clients: int
    seconds: float  # from the end of the warm-up to the last answer
    requests: int  # answered
    texts: int
    tokens: int | None  # as `usage` tells; None if it does not
    errors: dict[str, int] = field(default_factory=dict)  # by kind
    latency_ms: Latency | None = None
    client_cpu: float = 0.0  # cores that this program itself used
    beside_job: bool = False
    is_whole: bool = True  # False: Ctrl-C ended it early

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def texts_per_s(self) -> float:
        return self.texts / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_s(self) -> float | None:
        return None if self.tokens is None or not self.seconds else self.tokens / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """A job that ran beside the requests."""

    texts: int
    completed: int
    tokens: int
    seconds: float  # from its submission to its end, or to now
    is_whole: bool

    @property
    def texts_per_s(self) -> float:
        return self.completed / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """One bench of one server."""

    label: str
    url: str
    model: str
    started_at: float  # unix seconds
    texts: str  # what they were, in words
    seed: int
    batch: int  # texts in a request
    encoding: str
    dimensions: int | None
    runs: list[RunResult]
    job: JobResult | None = None
    umekomi_bench: int = 1  # the form's version

    @property
    def conditions(self) -> tuple[str, int, int, str]:
        """What has to be the same in two benches for a comparison to mean something."""
        return self.texts, self.seed, self.batch, self.encoding

    def to_json(self) -> bytes:
        """Indented, with the rates that follow from the counts."""
        wire = _ADAPTER.dump_python(self, mode="json")
        for run, told in zip(self.runs, wire["runs"], strict=True):
            told |= {name: getattr(run, name) for name in ("requests_per_s", "texts_per_s", "tokens_per_s")}
        if self.job is not None:
            wire["job"]["texts_per_s"] = self.job.texts_per_s
        return TypeAdapter(dict).dump_json(wire, indent=2) + b"\n"


_ADAPTER = TypeAdapter(BenchResult)


def read_result(path: Path) -> BenchResult:
    """What --json wrote. Raises UsageError."""
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except OSError as error:
        raise click.UsageError(f"--compare {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise click.UsageError(f"--compare {path}: not a file of `umekomi bench --json`: {where} {first['msg']}") from None
