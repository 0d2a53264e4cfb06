"""`umekomi models`: what a running server serves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cli.client import ApiClient, api_command

COLUMNS = {"id": "model", "state": "state", "dimensions": "dimensions", "max_tokens": "max tokens", "device": "device"}


@click.group()
def models() -> None:
    """See what a running server serves.

    \b
    umekomi models list
    """


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line instead of a table.")
@api_command
def list_models(as_json: bool, client: ApiClient) -> None:
    """List the served models: their state, dimensions and longest text in tokens.

    \b
    umekomi models list
    umekomi models list --json | jq -r .id
    """
    found = client.models()
    if as_json:
        for model in found:
            click.echo(json.dumps(model, ensure_ascii=False))
        return
    table = Table(box=None, header_style="bold")
    for title in COLUMNS.values():
        table.add_column(title)
    for model in found:
        table.add_row(*(_cell(model, name) for name in COLUMNS))
    Console().print(table)


def _cell(model: Mapping[str, Any], name: str) -> str:
    value = model.get(name)
    if name == "state" and model.get("reason"):
        return f"{value}: {model['reason']}"
    return "" if value is None else str(value)
