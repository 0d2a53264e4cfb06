"""A bench for a person: a row for each number of clients; where it is compared, the other's row and the ratio below it."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.bench.result import BenchResult, JobResult, RunResult

# Below this the columns that matter least are left out.
NARROW = 96
# Above so much of a core Python itself begins to slow the clients down.
BUSY_CPU = 0.9

# title, what it shows, the number compared, whether it goes where there is no room
_COLUMNS: tuple[tuple[str, Callable[[RunResult], float | None], bool], ...] = (
    ("requests/s", lambda run: run.requests_per_s, False),
    ("texts/s", lambda run: run.texts_per_s, False),
    ("tokens/s", lambda run: run.tokens_per_s, True),
    ("p50 ms", lambda run: run.latency_ms.p50 if run.latency_ms else None, False),
    ("p90 ms", lambda run: run.latency_ms.p90 if run.latency_ms else None, True),
    ("p99 ms", lambda run: run.latency_ms.p99 if run.latency_ms else None, False),
    ("max ms", lambda run: run.latency_ms.max if run.latency_ms else None, True),
)


def show(result: BenchResult, other: BenchResult | None, console: Console) -> None:
    """The whole of it."""
    shape = f", {result.dimensions} dimensions" if result.dimensions else ""
    texts = f"{result.batch} text{'s' if result.batch > 1 else ''} a request, {result.texts}, {result.encoding}"
    console.print(Text(f"{result.label}: {result.model} at {result.url}{shape}", style="bold"))
    console.print(Text(texts, style="dim"))
    console.print(runs_table(result, other, is_narrow=console.width < NARROW))
    if result.job is not None:
        console.print(Text(_job_line(result.label, result.job)))
    if other is not None and other.job is not None:
        console.print(Text(_job_line(other.label, other.job)))
    for line in notes(result, other):
        console.print(Text(line))


def runs_table(result: BenchResult, other: BenchResult | None, *, is_narrow: bool) -> Table:
    """The numbers."""
    table = Table(box=None, header_style="bold")
    table.add_column("clients", justify="right", no_wrap=True)
    if other is not None:
        table.add_column("", overflow="fold")
    columns = [(title, of) for title, of, goes in _COLUMNS if not (goes and is_narrow)]
    for title, _ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("errors", justify="right")
    for run in result.runs:
        name = f"{run.clients}{' + job' if run.beside_job else ''}"
        cells = [_number(of(run)) for _, of in columns]
        errors = _errors(run)
        if other is None:
            table.add_row(name, *cells, errors)
            continue
        table.add_row(name, result.label, *cells, errors)
        beside = _counterpart(run, other)
        if beside is None:
            continue
        table.add_row("", other.label, *(_number(of(beside)) for _, of in columns), _errors(beside), style="dim")
        table.add_row("", "ratio", *(_ratio(of(run), of(beside)) for _, of in columns), "", style="italic")
    return table


def notes(result: BenchResult, other: BenchResult | None) -> list[str]:
    """What a reader has to know about the numbers."""
    found = []
    kinds: dict[str, int] = {}
    for run in result.runs:
        for kind, count in run.errors.items():
            kinds[kind] = kinds.get(kind, 0) + count
    if kinds:
        found.append("errors: " + ", ".join(f"{count:,} x {kind}" for kind, count in kinds.items()))
    if busy := [run for run in result.runs if run.client_cpu > BUSY_CPU]:
        at = ", ".join(str(run.clients) for run in busy)
        found.append(f"with {at} clients this program itself used a core: the server may be faster than shown")
    if any(not run.is_whole for run in result.runs):
        found.append("stopped by Ctrl-C: the last row is of what was measured until then")
    if other is not None:
        found.append(f"ratio: {result.label} / {other.label}; more is better for rates, less for latencies")
        if result.conditions != other.conditions:
            found.append(f"not the same conditions: {other.label} had {other.texts}, batch {other.batch}, {other.encoding}")
    return found


def _job_line(label: str, job: JobResult) -> str:
    end = "" if job.is_whole else ", not finished"
    done = f"{job.completed:,} of {job.texts:,} texts in {job.seconds:.1f} s"
    return f"{label}, job beside: {done}, {job.texts_per_s:,.0f} texts/s{end}"


def _counterpart(run: RunResult, other: BenchResult) -> RunResult | None:
    return next((each for each in other.runs if (each.clients, each.beside_job) == (run.clients, run.beside_job)), None)


def _errors(run: RunResult) -> str:
    count = sum(run.errors.values())
    return f"{count:,}" if count else ""


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _ratio(value: float | None, other: float | None) -> str:
    return f"{value / other:.2f}x" if value is not None and other else ""
