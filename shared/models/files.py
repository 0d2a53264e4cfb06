"""ConfigFiles: the bytes of all configuration files at one moment: CONFIG_FILE, and the YAML files in the models directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = frozenset({".yaml", ".yml"})


@dataclass(frozen=True, slots=True)
class ConfigFiles:
    """What to read and in which order: a name belongs to the file that comes first. Equal if nothing changed."""

    contents: Mapping[Path, bytes | str]  # bytes, or why the file cannot be read
    config_file: Path | None
    directory: Path  # relative model paths start here


def read_files(config_file: Path | None, models_path: Path | None, applied: Path | None = None) -> ConfigFiles:
    """Every file whole; `applied` is the models directory if there is no `models_path`.

    Raises OSError if `config_file` cannot be read; a models directory that is not there is empty.
    """
    contents: dict[Path, bytes | str] = {}
    if config_file is not None:
        contents[config_file] = config_file.read_bytes()
    further = models_path or applied
    for file in _yaml_files(further) if further is not None else []:
        if config_file is None or not _is_same(file, config_file):
            try:
                contents[file] = file.read_bytes()
            except OSError as error:
                contents[file] = error.strerror or type(error).__name__
    directory = models_path or (config_file.absolute().parent if config_file is not None else Path.cwd())
    return ConfigFiles(contents, config_file, directory)


def _yaml_files(directory: Path) -> list[Path]:
    """By name. Not those below it, which belong to models, nor hidden ones, which editors and LocalAI's galleries leave."""
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        return []
    # A broken link is none of ours; one that cannot be looked at is told when it is read.
    return [file for file in entries if file.suffix in SUFFIXES and not file.name.startswith(".") and not file.is_dir()]


def _is_same(file: Path, other: Path) -> bool:
    try:
        return file.samefile(other)
    except OSError:
        return False
