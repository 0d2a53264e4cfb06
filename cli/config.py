"""`umekomi config`: are models.yaml and the models directory right?"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cli.options import read_settings
from shared.models import BUNDLED, ModelConfig, ModelRegistry, Problem, find_source, read_registry


@click.group()
def config() -> None:
    """Check models.yaml.

    \b
    umekomi config check models.yaml
    umekomi config check /models
    """


@config.command()
@click.argument("file", required=False, metavar="[FILE|DIRECTORY]", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--models-path",
    type=click.Path(path_type=Path),
    help="Directory whose YAML files are read too, and that relative model paths start from; else they start from FILE's."
    "  [UMEKOMI_MODELS_PATH]",
)
def check(file: Path | None, models_path: Path | None) -> None:
    """Name every mistake in FILE, or in the YAML files of DIRECTORY, as file:line: message, and list the models served.

    Without either it checks UMEKOMI_CONFIG_FILE and UMEKOMI_MODELS_PATH. Nothing is loaded or downloaded. The exit code is 0
    if every entry is served and 1 if one is not; keys that are passed over are named and do no harm.

    \b
    umekomi config check models.yaml
    umekomi config check /models
    """
    if file is not None and file.is_dir():
        file, models_path = None, models_path or file
        settings = read_settings({"models_path": models_path})
        config_file = None
    else:
        settings = read_settings({"config_file": file, "models_path": models_path})
        config_file = file or settings.config_file  # as given, so that file:line can be clicked on
    if config_file is None and settings.models_path is None:
        click.echo(f"no file given and UMEKOMI_CONFIG_FILE is not set: the bundled {BUNDLED.name} is served")
        return
    try:
        registry = read_registry(config_file, models_path or settings.models_path)
    except OSError as error:
        raise click.ClickException(f"{config_file} cannot be read: {error.strerror}") from None
    absent = missing_files(registry)
    for problem in in_order([*registry.problems, *absent.values()]):
        click.echo(str(problem), err=True)
    for model in registry:
        if model.name not in absent:
            alias = f" (also {', '.join(also)})" if (also := other_names(registry, model)) else ""
            click.echo(f"serves {model.name}{alias}: {model.parameters.model}")
    if not registry.models and not registry.problems:
        click.echo(f"there is no YAML file in {settings.models_path}: the bundled {BUNDLED.name} is served")
    if absent or any(not problem.served for problem in registry.problems):
        sys.exit(1)


def missing_files(registry: ModelRegistry) -> dict[str, Problem]:
    """By name, the models whose files are not here; a hub id is not looked up."""
    found = {}
    for model in registry:
        try:
            find_source(model, registry.directory)
        except FileNotFoundError as error:
            found[model.name] = Problem(*registry.lines[model.name], f"{model.name}: parameters.model: {error}")
    return found


def other_names(registry: ModelRegistry, model: ModelConfig) -> list[str]:
    """What else it is called."""
    return [name for name, config in registry.models.items() if config is model and name != model.name]


def in_order(problems: list[Problem]) -> list[Problem]:
    """By file, in the order that they are met, and line."""
    files = list(dict.fromkeys(problem.file for problem in problems))
    return sorted(problems, key=lambda problem: (files.index(problem.file), problem.line))
