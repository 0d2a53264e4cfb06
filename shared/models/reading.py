"""models.yaml read: every entry checked, everything wrong named with its file and line."""

from __future__ import annotations

import copy
import difflib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from shared.models.config import BUNDLED, LOCALAI_ONLY, LOCALAI_ONLY_PARAMETERS, BatchLimits, ModelConfig, Parameters
from shared.models.registry import ModelRegistry, Problem, make_registry
from shared.settings import Settings


def load_registry(settings: Settings) -> ModelRegistry:
    """The registry of CONFIG_FILE, or the bundled model alone.

    Raises OSError if the file cannot be read; anything less is a Problem.
    """
    if settings.config_file is None:
        return make_registry([(BUNDLED, 1)], [], Path("bundled"), settings.models_path or Path.cwd())
    return read_registry(settings.config_file, settings.models_path)


def read_registry(file: Path, models_path: Path | None = None) -> ModelRegistry:
    """A file of entries, as a list or as one mapping. Good entries serve beside bad ones, which become problems."""
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return ModelRegistry({}, (_not_yaml(error, file, 1),), file.absolute().parent)
    problems: list[Problem] = []
    entries: list[tuple[ModelConfig, int]] = []
    lines: dict[str, int] = {}
    if node is None:
        problems.append(Problem(file, 1, "the file is empty"))
        nodes = []
    elif isinstance(node, yaml.SequenceNode):
        nodes = node.value
    else:
        nodes = [node]
    for entry in nodes:
        config, found = _read_entry(entry, file)
        problems.extend(found)
        if config is not None:
            entries.append((config, entry.start_mark.line + 1))
            lines.setdefault(config.name, _line(entry, ("parameters", "model")))
    return replace(make_registry(entries, problems, file, models_path or file.absolute().parent), lines=lines)


def _read_entry(node: yaml.Node, file: Path) -> tuple[ModelConfig | None, list[Problem]]:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        return None, [Problem(file, line, "an entry must be a mapping with `name` and `parameters`")]
    problems = [Problem(file, line, f"the key `{key}` is there twice") for key, line in _repeated(node)]
    if problems:
        return None, problems
    try:
        # A copy: constructing writes merged keys (<<) into nodes that other entries may share.
        raw = yaml.SafeLoader("").construct_document(copy.deepcopy(node))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2024-99-99 looks like a date and is none
        return None, [_not_yaml(error, file, line)]
    parameters = raw.get("parameters")
    for path, owner, names in ((), raw, LOCALAI_ONLY), (("parameters",), parameters, LOCALAI_ONLY_PARAMETERS):
        for key in [key for key in owner if key in names] if isinstance(owner, dict) else []:
            del owner[key]
            reason = f"{'.'.join((*path, key))}: has no meaning for an embedding model; ignored"
            problems.append(Problem(file, _line(node, (*path, key)), reason, served=True))
    try:
        return ModelConfig.model_validate(raw, strict=False), problems
    except ValidationError as error:
        name = raw.get("name", "an entry without a name")
        for wrong in error.errors():
            problems.append(Problem(file, _line(node, wrong["loc"]), f"{name}: {_sentence(wrong)}"))
        return None, problems


def _not_yaml(error: Exception, file: Path, line: int) -> Problem:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or " ".join(str(error).split())
    return Problem(file, mark.line + 1 if mark else line, f"not YAML: {reason}")


def _repeated(entry: yaml.Node) -> Iterator[tuple[str, int]]:
    """Keys that one mapping of the entry has twice, of which YAML would silently take the last; with their lines."""
    left, met = [entry], set()
    while left:
        node = left.pop()
        if id(node) in met or not isinstance(node, yaml.CollectionNode):
            continue
        met.add(id(node))  # anchors may lead to it again, and in circles
        if isinstance(node, yaml.MappingNode):
            names = Counter[str]()
            for key, value in node.value:
                left.append(value)
                if isinstance(key, yaml.ScalarNode):
                    names[key.value] += 1
                    if names[key.value] == 2:
                        yield key.value, key.start_mark.line + 1
        else:
            left += node.value


def _sentence(wrong: Any) -> str:
    where = ".".join(str(part) for part in wrong["loc"])
    if wrong["type"] == "extra_forbidden":
        owners: dict[str, type[BaseModel]] = {"parameters": Parameters, "batch": BatchLimits}
        owner = owners.get(str(wrong["loc"][0]), ModelConfig)
        if owner is ModelConfig and wrong["loc"][-1] in Parameters.model_fields:
            return f"unknown key `{where}`; did you mean `parameters.{where}`?"
        near = difflib.get_close_matches(str(wrong["loc"][-1]), list(owner.model_fields), n=1, cutoff=0.5)
        return f"unknown key `{where}`" + (f"; did you mean `{near[0]}`?" if near else "")
    message = str(wrong["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _line(node: yaml.Node, path: tuple[int | str, ...]) -> int:
    """The line, from 1, of the deepest key of the path that the file has."""
    line = node.start_mark.line + 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
