"""Watching: progress bars of an upload and of a job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cli.client import ApiClient, JobStatus, Refused, TryAgain

# Where the server tells no changes, a job is looked at often at first, so that a small one is done at once, then once a second.
FIRST_LOOK_S = 0.1
LOOK_EVERY_S = 1.0


@contextmanager
def upload_bar(name: str, size_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Gives what to call with the bytes sent so far."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"sending {name}", total=size_bytes)

        def on_sent(sent: int) -> None:
            progress.update(task, completed=sent)

        yield on_sent


def watch_job(client: ApiClient, job_id: str) -> JobStatus:
    """Blocks until the job is finished, showing how far it is; goes on through a server that is away for a while.

    Raises Refused if there is no such job, KeyboardInterrupt on Ctrl-C.
    """
    console = Console(stderr=True)
    job = client.job(job_id)
    if not console.is_terminal:
        return _watch_in_lines(client, job)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(job.status, total=job.total, pace="")
        for seen in _looks(client, job):
            if seen is None:
                progress.update(task, pace="the server does not answer; trying again")
                continue
            job, done = seen, seen.completed + seen.failed
            progress.update(task, description=job.status, total=job.total, completed=done, pace=describe_pace(job))
    return job


def _watch_in_lines(client: ApiClient, job: JobStatus) -> JobStatus:
    """For logs and pipes: a line for each change of the status and each tenth of the way."""
    told = None
    for seen in _looks(client, job):
        if seen is None:
            told = None
            continue
        job, done = seen, seen.completed + seen.failed
        step = (job.status, 10 * done // max(job.total, 1))
        if step != told:
            told = step
            click.echo(f"{job.id} {job.status} {done}/{job.total} {describe_pace(job)}".rstrip(), err=True)
    return job


def _looks(client: ApiClient, job: JobStatus) -> Iterator[JobStatus | None]:
    """The job as it stands, whenever that may have changed, until it is finished; None while the server does not answer.

    The server tells changes as they come. Where it does not (it restarts, all its streams are taken, a proxy cuts them, it
    is an older one), the job is asked for now and then. Raises Refused if there is no such job any more.
    """
    yield job
    look_in_s, tells_changes = FIRST_LOOK_S, True
    while not job.is_finished:
        if tells_changes:
            try:
                for changed in client.changes(job.id):
                    job = changed
                    yield job
                    look_in_s = FIRST_LOOK_S
            except Refused:
                tells_changes = False  # whether it is the job that is not there is found out below
            except TryAgain:
                pass
            if job.is_finished:
                return  # told by the stream
        time.sleep(look_in_s)
        look_in_s = min(2 * look_in_s, LOOK_EVERY_S)
        try:
            job = client.job(job.id)
        except TryAgain:
            yield None
        else:
            yield job


def describe_pace(job: JobStatus) -> str:
    """Rate, time left, failures."""
    parts = []
    if job.texts_per_second is not None:
        parts.append(f"{job.texts_per_second:,.0f} texts/s")
    if job.eta_s is not None and not job.is_finished:
        parts.append(f"{describe_seconds(job.eta_s)} left")
    if job.failed:
        parts.append(f"{job.failed:,} failed")
    return ", ".join(parts)


def describe_seconds(seconds: float) -> str:
    """42 s, 5:07 min, 3:20 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
