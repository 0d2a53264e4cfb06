"""`umekomi worker`: one worker alone."""

from __future__ import annotations

from typing import Any

import click

from cli.devices import NoDevices, worker_devices
from cli.localai import LocalAICommand
from cli.options import read_settings, settings_flags
from cli.processes import DRAIN_S, environment, run_instead, worker_command, worker_specs
from cli.supervisor import Supervisor
from cli.terminal import Terminal


@click.command(cls=LocalAICommand)
@settings_flags
def worker(**flags: Any) -> None:
    """Run one worker alone: one per GPU, or one per machine without.

    It needs a Redis or Valkey (--redis-url) and storage (--storage-url) that the API uses too. It becomes a Celery
    worker: SIGTERM lets it finish what it runs. With --devices all it keeps one running on every GPU.

    \b
    umekomi worker --redis-url redis://redis:6379/0 --storage-url s3://bucket/umekomi --device cuda:1
    umekomi worker --redis-url redis://redis:6379/0 --storage-url s3://bucket/umekomi --devices all
    """
    settings = read_settings(flags)
    try:
        devices = worker_devices(settings)
    except NoDevices as error:
        raise click.ClickException(str(error)) from None
    if len(devices) == 1:
        run_instead(worker_command(), settings.model_copy(update={"device": devices[0], "devices": ""}))
    Supervisor(worker_specs(devices, environment(settings), DRAIN_S), Terminal()).run(lambda _stopping: None)
