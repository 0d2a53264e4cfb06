"""`umekomi models`: what a running server serves, and fetching models of the hub to this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cli.client import ApiClient, api_command
from cli.pull import pull_model, read_id

COLUMNS = {"id": "model", "state": "state", "dimensions": "dimensions", "max_tokens": "max tokens", "device": "device"}


@click.group()
def models() -> None:
    """See what a running server serves; fetch models of the hub to this machine.

    \b
    umekomi models list
    umekomi models pull intfloat/multilingual-e5-small
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


@models.command()
@click.argument("model", metavar="ID")
@click.option("--revision", metavar="REVISION", help="A branch, tag or commit.  [default: main]")
@click.option(
    "--to",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Put the files themselves there, for parameters.model of an entry, instead of into the hub's cache.",
)
def pull(model: str, revision: str | None, to: Path | None) -> None:
    """Fetch a model of the hub, or what changed of it, and print the directory of its files.

    Only what a sentence-transformers model needs is fetched, one copy of its weights. Every file is checked. What broke off,
    or was stopped with Ctrl-C, goes on where it was. ID may also be hf://…, huggingface://… or the link that a browser
    shows. HF_TOKEN opens gated and private models, HF_ENDPOINT names a mirror, HF_HOME the cache.

    \b
    umekomi models pull intfloat/multilingual-e5-small
    umekomi models pull hf://sonoisa/sentence-luke-japanese-base-lite --to ./models/sentence-luke
    """
    hub_id, revision = read_id(model, revision)
    pull_model(hub_id, revision, to)


def _cell(model: Mapping[str, Any], name: str) -> str:
    value = model.get(name)
    if name == "state" and model.get("reason"):
        return f"{value}: {model['reason']}"
    return "" if value is None else str(value)
