"""Settings as command-line flags: one flag a field, made from the field, so that none can be forgotten."""

from __future__ import annotations

import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from pydantic.fields import FieldInfo

from shared.settings import ENV_PREFIX, Settings, WrongSettings, load_settings

Command = TypeVar("Command", bound=Callable[..., Any])

# Defaults that a default_factory computes, as a reader should see them.
COMPUTED_DEFAULTS = {"data_dir": "~/.local/share/umekomi"}


class WrongFlags(click.ClickException):
    """A flag or variable has a wrong value; the message names it."""

    exit_code = 2


def settings_flags(command: Command) -> Command:
    """Decorator: a flag for every field of Settings. Values arrive as given, None if not; `read_settings` checks them."""
    for name, field in reversed(Settings.model_fields.items()):
        help_text = f"{field.description}  [{ENV_PREFIX}{name.upper()}; default: {default_text(name, field)}]"
        if name in ("api_keys", "webhook_secret"):
            help_text += "  Rather use the variable: a flag is seen in the process list."
        spelling = flag(name)
        if field.annotation is bool:
            command = click.option(f"{spelling}/--no-{spelling[2:]}", name, default=None, help=help_text)(command)
        else:
            command = click.option(spelling, name, metavar=_metavar(name, field), help=help_text)(command)
    return command


def read_settings(flags: dict[str, Any]) -> Settings:
    """The settings of this process: flags win over variables. Raises WrongFlags."""
    try:
        return load_settings(**flags)
    except WrongSettings as wrong:
        message = str(wrong)
        for name in (name for name, value in flags.items() if value is not None):
            message = message.replace(f"{ENV_PREFIX}{name.upper()}:", f"{flag(name)}:")
        raise WrongFlags(message) from None


def flag(name: str) -> str:
    """max_inputs -> --max-inputs."""
    return "--" + name.replace("_", "-")


def default_text(name: str, field: FieldInfo) -> str:
    """A field's default for people."""
    if name in COMPUTED_DEFAULTS:
        return COMPUTED_DEFAULTS[name]
    default = field.default
    if default is None or default in ((), ""):
        return "unset"
    if name.endswith("_bytes"):
        return f"{default} ({_bytes_text(default)})"
    return str(int(default)) if isinstance(default, float) and default.is_integer() else str(default)


def _bytes_text(count: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:g} {name}"
    return f"{count} B"


def _metavar(name: str, field: FieldInfo) -> str:
    annotation = field.annotation
    if typing.get_origin(annotation) is Literal:
        return "|".join(map(str, typing.get_args(annotation)))
    if name == "address":
        return "HOST:PORT"
    if name.endswith("_url"):
        return "URL"
    kinds = set(typing.get_args(annotation)) or {annotation}
    return next((metavar for kind, metavar in ((Path, "PATH"), (int, "N"), (float, "NUMBER")) if kind in kinds), "TEXT")
