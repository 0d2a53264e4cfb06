"""`umekomi config`: is models.yaml right?"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cli.options import read_settings
from shared.models import BUNDLED, ModelRegistry, Problem, find_source, read_registry


@click.group()
def config() -> None:
    """Check models.yaml.

    \b
    umekomi config check models.yaml
    """


@config.command()
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--models-path",
    type=click.Path(path_type=Path),
    help="Directory that relative model paths start from; without it the file's own.  [UMEKOMI_MODELS_PATH]",
)
def check(file: Path | None, models_path: Path | None) -> None:
    """Name every mistake in FILE as file:line: message, and list the models that it serves.

    Without FILE it checks UMEKOMI_CONFIG_FILE. Nothing is loaded or downloaded. The exit code is 0 if every entry is
    served and 1 if one is not; keys that are passed over are named and do no harm.

    \b
    umekomi config check models.yaml
    """
    settings = read_settings({"config_file": file, "models_path": models_path})
    if settings.config_file is None:
        click.echo(f"no file given and UMEKOMI_CONFIG_FILE is not set: the bundled {BUNDLED.name} is served")
        return
    # As given, so that file:line can be clicked on.
    name = file or settings.config_file
    try:
        registry = read_registry(name, settings.models_path)
    except OSError as error:
        raise click.ClickException(f"{name} cannot be read: {error.strerror}") from None
    absent = missing_files(registry, name)
    problems = sorted([*registry.problems, *absent.values()], key=lambda problem: problem.line)
    for problem in problems:
        click.echo(str(problem), err=True)
    for model in registry:
        if model.name not in absent:
            alias = f" (also {model.alias})" if model.alias else ""
            click.echo(f"serves {model.name}{alias}: {model.parameters.model}")
    if any(not problem.served for problem in problems):
        sys.exit(1)


def missing_files(registry: ModelRegistry, file: Path) -> dict[str, Problem]:
    """By name, the models whose files are not here; a hub id is not looked up."""
    found = {}
    for model in registry:
        try:
            find_source(model, registry.directory)
        except FileNotFoundError as error:
            found[model.name] = Problem(file, registry.lines[model.name], f"{model.name}: parameters.model: {error}")
    return found
