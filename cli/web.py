"""`umekomi web`: the API alone."""

from __future__ import annotations

from typing import Any

import click

from cli.localai import LocalAICommand
from cli.options import read_settings, settings_flags
from cli.processes import run_instead, web_command


@click.command(cls=LocalAICommand)
@settings_flags
def web(**flags: Any) -> None:
    """Run the API alone.

    It needs a Redis or Valkey (--redis-url) and storage (--storage-url) that the workers use too. It becomes gunicorn:
    SIGTERM lets running requests end.

    \b
    umekomi web --address 0.0.0.0:8080 --redis-url redis://redis:6379/0 --storage-url s3://bucket/umekomi
    """
    run_instead(web_command(), read_settings(flags))
