"""`umekomi worker`: one worker alone."""

from __future__ import annotations

from typing import Any

import click

from cli.options import read_settings, settings_flags
from cli.processes import run_instead, worker_command


@click.command()
@settings_flags
def worker(**flags: Any) -> None:
    """Run one worker alone: one per GPU, or one per machine without.

    It needs a Redis or Valkey (--redis-url) and storage (--storage-url) that the API uses too. It becomes a Celery
    worker: SIGTERM lets it finish what it runs.

    \b
    umekomi worker --redis-url redis://redis:6379/0 --storage-url s3://bucket/umekomi --device cuda:1
    """
    run_instead(worker_command(), read_settings(flags))
