"""`umekomi keys`: API keys, made, listed and revoked in keys.json; a running server sees it within a second."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import click
from rich.console import Console
from rich.table import Table

from cli.options import read_settings
from shared.access import LIMITS, ApiKey, KeyFile, Limits, Role, UnreadableKeys

Command = TypeVar("Command", bound=Callable[..., Any])

MAX_NAME_CHARACTERS = 200
LIMIT_FLAGS = {
    "requests_per_minute": ("--limit-requests", "Requests in a minute"),
    "tokens_per_minute": ("--limit-tokens", "Tokens of synchronous requests in a minute"),
    "jobs": ("--limit-jobs", "Jobs and batches that are not finished"),
    "stored_bytes": ("--limit-stored-bytes", "Bytes of files and of jobs' inputs"),
}


@click.group()
def keys() -> None:
    """Make, list and revoke API keys.

    They are kept in keys.json of the data directory, by their digests: a key is shown once, when it is made. A running server
    takes over what changes within a second. With a first key everybody needs one.

    \b
    umekomi keys create --name alice
    umekomi keys create --name nightly --role embed --limit-jobs 2 --limit-requests 600
    umekomi keys create --name me --role admin
    umekomi keys list
    umekomi keys revoke alice
    """


def _file_flags(command: Command) -> Command:
    """Decorator: where keys.json is; the command gets a KeyFile as `file`."""
    for name, what in (("api_keys_file", "The file.  [UMEKOMI_API_KEYS_FILE]"), ("data_dir", "Where it is by default.")):
        command = click.option("--" + name.replace("_", "-"), name, metavar="PATH", type=click.Path(path_type=Path), help=what)(
            command
        )
    return command


def _limit_flags(command: Command) -> Command:
    for name in reversed(LIMITS):
        flag, what = LIMIT_FLAGS[name]
        command = click.option(
            flag, name, type=click.IntRange(min=0), metavar="N", help=f"{what}; 0: no limit, unset: as the server's settings say."
        )(command)
    return command


@keys.command()
@click.option("--name", required=True, help="Whose it is or what for; one key a name.")
@click.option("--role", type=click.Choice(get_args(Role)), default="embed", show_default=True, help="admin: everything.")
@_limit_flags
@_file_flags
def create(name: str, role: str, data_dir: Path | None, api_keys_file: Path | None, **limits: int | None) -> None:
    """Make a key and print it: this once, on standard output alone.

    \b
    umekomi keys create --name alice --role embed --limit-requests 600 --limit-tokens 1000000
    KEY=$(umekomi keys create --name ci)
    """
    name = name.strip()
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise click.BadParameter(f"must be 1 to {MAX_NAME_CHARACTERS} printable characters", param_hint="--name")
    with _told():
        file = _key_file(data_dir, api_keys_file)
        entry, key = file.create(name, cast(Role, role), Limits(**limits))
    click.echo(f"{entry.id} ({entry.role}) written to {file.file}; the key is shown this once:", err=True)
    click.echo(key)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line instead of a table.")
@_file_flags
def list_keys(as_json: bool, data_dir: Path | None, api_keys_file: Path | None) -> None:
    """List the keys of keys.json: id, name, role, limits, and the last characters of each.

    Those of UMEKOMI_API_KEYS and of api_keys.json are not in it; they are of the role admin.

    \b
    umekomi keys list
    umekomi keys list --json | jq -r .id
    """
    with _told():
        entries = _key_file(data_dir, api_keys_file).entries()
    if as_json:
        for entry in entries:
            click.echo(json.dumps(entry.model_dump(exclude={"sha256"}, exclude_none=True), ensure_ascii=False))
        return
    table = Table(box=None, header_style="bold")
    for title in ("id", "name", "role", "limits", "key", "created"):
        table.add_column(title)
    for entry in entries:
        created = time.strftime("%Y-%m-%d", time.localtime(entry.created_at))
        table.add_row(entry.id, entry.name, entry.role, limits_text(entry), f"…{entry.hint}", created)
    Console().print(table)


@keys.command()
@click.argument("key")
@_file_flags
def revoke(key: str, data_dir: Path | None, api_keys_file: Path | None) -> None:
    """Take a key away, by its id or name. Its jobs and files stay, for nobody.

    \b
    umekomi keys revoke alice
    """
    with _told():
        entry = _key_file(data_dir, api_keys_file).revoke(key)
    click.echo(f"revoked {entry.id} ({entry.name})")


def limits_text(entry: ApiKey) -> str:
    """The limits that the entry has of its own."""
    given = entry.limits.model_dump(exclude_none=True)
    return ", ".join(f"{name.replace('_', ' ')} {value or 'unlimited'}" for name, value in given.items())


def _key_file(data_dir: Path | None, api_keys_file: Path | None) -> KeyFile:
    return KeyFile(read_settings({"data_dir": data_dir, "api_keys_file": api_keys_file}).keys_file)


@contextmanager
def _told() -> Iterator[None]:
    """What can go wrong with the file, as a sentence."""
    try:
        yield
    except (UnreadableKeys, ValueError, LookupError) as error:
        raise click.ClickException(str(error.args[0])) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None
