"""`umekomi doctor`: what is wrong with this installation, and what to change."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.doctor.broker import check_redis
from cli.doctor.disks import check_data_dir, check_storage
from cli.doctor.finding import Finding, run_check
from cli.doctor.gpus import check_gpus
from cli.doctor.machine import check_address, check_cpu, check_limits
from cli.doctor.model_files import check_models
from cli.doctor.server import check_server
from cli.options import read_settings, settings_flags
from cli.terminal import Terminal
from shared.settings import Settings

COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}
# What it is about where the check itself fails -> the check, in the order in which they are told.
CHECKS: dict[str, Callable[[Settings], Iterable[Finding]]] = {
    "redis": check_redis,
    "storage": check_storage,
    "data": check_data_dir,
    "models": check_models,
    "gpu": check_gpus,
    "cpu": check_cpu,
    "memory": lambda _settings: check_limits(),
    "address": check_address,
}


@click.command()
@click.option("--url", envvar="UMEKOMI_URL", metavar="URL", help="Look at a running server too.  [UMEKOMI_URL]")
@click.option("--api-key", envvar="UMEKOMI_API_KEY", metavar="KEY", help="For it; rather set the variable.  [UMEKOMI_API_KEY]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object {status, findings}.")
@click.option("-q", "--quiet", is_flag=True, help="Only what is not ok.")
@settings_flags
def doctor(url: str | None, api_key: str | None, as_json: bool, quiet: bool, **flags: Any) -> None:
    """Check this machine, Redis, storage and models, and say what to change.

    It takes every setting as serve, web and worker do: run it as you run them, in the same container. It changes nothing;
    in storage it makes one small object and removes it. Nothing is loaded or downloaded. The exit code is 1 if anything
    fails, and 0 if there are warnings alone.

    \b
    umekomi doctor
    umekomi doctor --redis-url redis://redis:6379/0 --storage-url s3://bucket/umekomi
    umekomi doctor --url http://localhost:8080 --json | jq '.findings[] | select(.level != "ok")'
    """
    settings = read_settings(flags)
    terminal = Terminal() if sys.stderr.isatty() else None
    found: list[Finding] = []
    for about, check in CHECKS.items():
        if terminal is not None:
            terminal.status(f"Looking at {about}")
        found += run_check(about, lambda check=check: check(settings))  # type: ignore[misc]
    if url is not None:
        found += run_check("server", lambda: check_server(url, api_key))
    if terminal is not None:
        terminal.status("")
    shown = [each for each in found if not (quiet and each.level == "ok")]
    if as_json:
        click.echo(
            json.dumps({"status": worst(found), "findings": [asdict(each) for each in shown]}, ensure_ascii=False, indent=2)
        )
    else:
        show(shown, found)
    if worst(found) == "fail":
        sys.exit(1)


def worst(found: Iterable[Finding]) -> str:
    """Of all of them."""
    levels = {each.level for each in found}
    return next((level for level in ("fail", "warn") if level in levels), "ok")


def show(shown: list[Finding], found: list[Finding]) -> None:
    """A line each, the advice below it, and the sum."""
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for each in shown:
        table.add_row(Text(each.level, style=COLOURS[each.level]), each.about, Text(each.message))
        if each.advice:
            table.add_row("", "", Text(f"-> {each.advice}"))
    console.print(table)
    counts = {level: sum(each.level == level for each in found) for level in ("fail", "warn", "ok")}
    console.print(Text(f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} wrong"))
