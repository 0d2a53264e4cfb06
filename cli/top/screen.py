"""The picture: an overview as tables that fit the terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.top.choosing import Choice
from cli.top.overview import BulkLane, InteractiveLane, Job, Model, Overview, Throughput, Worker
from cli.top.pace import Pace
from cli.watch import describe_seconds

# Columns of the terminal: below the first some things are left out, from the second on ids of jobs are whole.
NARROW, WIDE = 100, 140
SPARKS = "▁▂▃▄▅▆▇█"
BAR = 16
STATES = {"ready": "green", "failed": "bold red", "loading": "yellow", "downloading": "yellow", "paused": "yellow"}
KEYS = "q quit  up/down or j/k select  c cancel  p pause  r resume"


def picture(
    overview: Overview, pace: Pace, choice: Choice, *, width: int, height: int | None, url: str, lost: str = ""
) -> RenderableType:
    """Everything; with a height not more than fits, which cuts lists and not what is below them."""
    is_narrow = width < NARROW
    head: list[RenderableType] = [_head(overview, url)]
    if lost:
        head.append(Text(f"trying again: {lost}", style="bold red", no_wrap=True, overflow="ellipsis"))
    if overview.redis != "ok":
        head.append(Text("Redis cannot be reached", style="bold red"))
    head += [Text(problem, style="yellow", no_wrap=True, overflow="ellipsis") for problem in overview.problems[:2]]
    foot: list[RenderableType] = [] if height is None else [_foot(choice)]
    lanes = [lane for lane in overview.lanes.interactive if lane.asks or lane.answered or lane.failed]
    room = _shares(
        None if height is None else height - len(head) - len(foot) - 8,
        [len(overview.models), len(overview.workers), len(lanes), len(overview.lanes.bulk), len(overview.jobs)],
    )
    jobs = _around(overview.jobs, choice.job_id, room[4])
    parts: list[RenderableType] = [
        *head,
        _models(overview.models[: room[0]], len(overview.models), is_narrow=is_narrow),
        _workers(overview.workers[: room[1]], len(overview.workers), is_narrow=is_narrow),
        _interactive(lanes[: room[2]], len(lanes)),
        _bulk(overview.lanes.bulk[: room[3]], len(overview.lanes.bulk)),
        _throughput(overview.throughput, width),
        _jobs(jobs, overview.unfinished_jobs, pace, choice, width),
        *foot,
    ]
    return Group(*parts)


def _shares(room: int | None, wanted: Sequence[int]) -> list[int]:
    """Rows for each list: as many as it wants while there is room, dealt one at a time; 1 at least."""
    if room is None:
        return list(wanted)
    given = [min(1, each) for each in wanted]
    left = room - sum(given)
    while left > 0 and any(has < wants for has, wants in zip(given, wanted, strict=True)):
        for number, wants in enumerate(wanted):
            if given[number] < wants and left > 0:
                given[number] += 1
                left -= 1
    return given


def _around(jobs: Sequence[Job], selected: str | None, room: int) -> list[Job]:
    """So many of them that the selected one is among them."""
    at = next((number for number, job in enumerate(jobs) if job.id == selected), 0)
    first = max(0, min(at - room + 1, len(jobs) - room))
    return list(jobs[first : first + room])


def _head(overview: Overview, url: str) -> Text:
    clock = time.strftime("%H:%M:%S", time.localtime(overview.at))
    text = Text(f"umekomi {overview.version} at {url}  {clock}", style="bold", no_wrap=True, overflow="ellipsis")
    if overview.scope != "all":
        text.append("  (this API key sees its own jobs alone)", style="dim")
    return text


def _foot(choice: Choice) -> Text:
    if choice.asked is not None:
        return Text(f"{choice.asked.name} {choice.asked.job_id}? y does it, any other key does not", style="bold yellow")
    return Text(choice.message or KEYS, style="" if choice.message else "dim", no_wrap=True, overflow="ellipsis")


def _table(what: str, shown: int, count: int, *right: str) -> Table:
    """The first title says how many there are, if not all are shown; `right` are the others, ">" before those of numbers."""
    table = Table(box=None, header_style="bold cyan", expand=False, pad_edge=False)
    table.add_column(what if shown >= count else f"{what} ({shown} of {count})", no_wrap=True, overflow="ellipsis", min_width=14)
    for title in right:
        is_number = title.startswith(">")
        table.add_column(title.removeprefix(">"), justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis")
    return table


def _models(models: Sequence[Model], count: int, *, is_narrow: bool) -> Table:
    more = () if is_narrow else ("engine", "dtype", ">workers", ">in use")
    table = _table("MODEL", len(models), count, "state", "device", ">memory", ">tokens/s", *more)
    for model in models:
        state = model.state
        if model.download is not None:
            state += f" {100 * model.download.done_bytes // max(1, model.download.total_bytes)} %"
        elif model.reason:
            state += f": {model.reason}"
        rest = () if is_narrow else (model.engine, model.dtype or "", str(model.workers), str(model.in_use))
        rate = "" if model.tokens_per_second is None else f"{model.tokens_per_second:,.0f}"
        shown = Text(state, style=STATES.get(model.state, ""))
        table.add_row(Text(model.name), shown, model.device or "", _bytes(model.memory_bytes), rate, *map(Text, rest))
    return table


def _workers(workers: Sequence[Worker], count: int, *, is_narrow: bool) -> Table:
    more = () if is_narrow else (">heard", "models")
    table = _table("WORKER", len(workers), count, "device", ">memory", ">shards", ">waiting tokens", *more)
    for worker in workers:
        rest = () if is_narrow else (f"{worker.heard_seconds_ago:.0f} s", ", ".join(worker.models))
        waiting = f"{sum(worker.waiting_tokens.values()):,}"
        shards = f"{len(worker.shards)}/{worker.shards_at_once}"
        name = Text(f"{worker.host}:{worker.pid}")
        table.add_row(name, worker.device, _bytes(worker.memory_bytes or None), shards, waiting, *map(Text, rest))
    if not count:
        table.add_row(Text("none lives", style="bold red"), "", "", "", "", *("" for _ in more))
    return table


def _interactive(lanes: Sequence[InteractiveLane], count: int) -> Table:
    table = _table("QUESTIONS", len(lanes), count, ">waiting", ">oldest", ">p50 ms", ">p99 ms", ">done/min", ">failed")
    for lane in lanes:
        times = (_ms(lane.p50_seconds), _ms(lane.p99_seconds))
        table.add_row(
            Text(lane.model), f"{lane.asks:,}", _age(lane.oldest_seconds), *times, f"{lane.answered:,}", f"{lane.failed:,}"
        )
    return table


def _bulk(lanes: Sequence[BulkLane], count: int) -> Table:
    table = _table("BULK", len(lanes), count, ">jobs", ">paused", ">shards", ">running", ">oldest")
    for lane in lanes:
        counts = (lane.jobs, lane.paused, lane.shards_waiting, lane.shards_in_flight)
        table.add_row(Text(lane.model), *(f"{each:,}" for each in counts), _age(lane.oldest_seconds))
    return table


def _throughput(throughput: Throughput, width: int) -> Table:
    table = _table("THROUGHPUT", 0, 0, ">texts/s", ">tokens/s", "lately")
    for lane, texts in throughput.texts_per_second.items():
        tokens = throughput.tokens_per_second.get(lane, [])
        last = (f"{series[-1]:,.0f}" if series else "" for series in (texts, tokens))
        table.add_row(lane, *last, sparkline(tokens, max(10, width - 50)))
    return table


def _jobs(jobs: Sequence[Job], count: int, pace: Pace, choice: Choice, width: int) -> Table:
    more = () if width < NARROW else ("model", "priority", ">texts")
    table = _table("JOB", len(jobs), count, "status", "done", ">texts/s", ">left", *more)
    for job in jobs:
        rate, eta_s = pace.texts_per_second(job), pace.eta_s(job)
        cells = ("" if rate is None else f"{rate:,.0f}", "" if eta_s is None else describe_seconds(eta_s))
        rest = () if width < NARROW else (job.model, job.priority, f"{job.rows:,}")
        name = Text(("> " if job.id == choice.job_id else "  ") + (job.id if width >= WIDE else f"{job.id[:12]}…"))
        status = Text(job.status, style=STATES.get(job.status, ""))
        style = "reverse" if job.id == choice.job_id else ""
        done = f"{100 * job.share:.0f} %" if width < NARROW else _bar(job.share)
        table.add_row(name, status, done, *cells, *map(Text, rest), style=style)
    return table


def sparkline(values: Sequence[float], width: int) -> str:
    """The latest values, one character each, the highest one full."""
    shown = values[-width:]
    most = max(shown, default=0.0)
    return "".join(SPARKS[round((len(SPARKS) - 1) * value / most)] if most else SPARKS[0] for value in shown)


def _bar(share: float) -> str:
    full = round(BAR * share)
    return f"{'█' * full}{'░' * (BAR - full)} {100 * share:3.0f} %"


def _bytes(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _age(seconds: float | None) -> str:
    return "" if seconds is None else describe_seconds(seconds)


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:,.1f}"
