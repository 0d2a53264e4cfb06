"""Configuration files read: every entry checked, everything wrong named with its file and line."""

from __future__ import annotations

import copy
import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from shared.models.config import BUNDLED, LOCALAI_ONLY, LOCALAI_ONLY_PARAMETERS, BatchLimits, ModelConfig, Parameters
from shared.models.defaults import with_defaults
from shared.models.files import ConfigFiles, read_files
from shared.models.registry import Entry, ModelRegistry, Problem, Redirect, make_registry
from shared.settings import Settings


def load_registry(settings: Settings) -> ModelRegistry:
    """The registry of CONFIG_FILE and the models directory, or the bundled model alone if no file holds an entry.

    Raises OSError if CONFIG_FILE cannot be read; anything less is a Problem.
    """
    return registry_of(read_files(settings.config_file, settings.models_path, settings.applied_models), settings)


def registry_of(files: ConfigFiles, settings: Settings) -> ModelRegistry:
    """The same of files that were read already, with the worker-wide settings where an entry says nothing."""
    # Models that were applied come beside the bundled one.
    is_bundled = not files.contents or (settings.config_file is None and settings.models_path is None)
    return with_defaults(_read(files, [Entry(BUNDLED, Path("bundled"), 1, 1)] if is_bundled else []), settings)


def read_registry(file: Path | None, models_path: Path | None = None) -> ModelRegistry:
    """As the files say. Good entries serve beside bad ones, which become problems. Raises OSError if `file` is not there."""
    return _read(read_files(file, models_path))


@dataclass(slots=True)
class _Found:
    """What files hold."""

    entries: list[Entry] = field(default_factory=list)
    redirects: list[Redirect] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    readable: list[Path] = field(default_factory=list)

    def names(self) -> set[str]:
        """Of all entries, the wrong ones too: what one of them is to be is not for another file to say."""
        named = [entry.config.name for entry in self.entries] + [redirect.name for redirect in self.redirects]
        return {*named, *(problem.model for problem in self.problems if problem.model is not None)}

    def add(self, other: _Found, decided: set[str]) -> None:
        """All of another file but the entries whose names are decided already."""
        for thing, name in [(entry, entry.config.name) for entry in other.entries] + [
            (each, each.name) for each in other.redirects
        ]:
            if name in decided:
                reason = f"{name}: the configuration file has a model of this name, which counts"
                self.problems.append(Problem(thing.file, thing.line, reason, served=True))
            elif isinstance(thing, Entry):
                self.entries.append(thing)
            else:
                self.redirects.append(thing)
        self.problems += other.problems
        self.readable += other.readable


def _read(files: ConfigFiles, first: Sequence[Entry] = ()) -> ModelRegistry:
    found = _Found(list(first))
    decided: set[str] = set()
    for file, content in files.contents.items():
        here = _read_file(file, content)
        found.add(here, decided)
        if file == files.config_file:
            decided = here.names()
    return make_registry(
        found.entries,
        found.problems,
        files.directory,
        redirects=found.redirects,
        files=list(files.contents),
        readable=found.readable,
    )


def _read_file(file: Path, content: bytes | str) -> _Found:
    found = _Found()
    if isinstance(content, str):
        found.problems.append(Problem(file, 1, f"cannot be read: {content}"))
        return found
    try:
        nodes = [node for node in yaml.compose_all(content.decode("utf-8"), Loader=yaml.SafeLoader) if not _is_null(node)]
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        found.problems.append(_not_yaml(error, file, 1))
        return found
    found.readable.append(file)
    if not nodes:
        found.problems.append(Problem(file, 1, "the file is empty"))
    for document in nodes:
        for node in document.value if isinstance(document, yaml.SequenceNode) else [document]:
            _read_entry(node, file, found)
    return found


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _read_entry(node: yaml.Node, file: Path, found: _Found) -> None:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        found.problems.append(Problem(file, line, "an entry must be a mapping with `name` and `parameters`"))
        return
    repeated = [Problem(file, line, f"the key `{key}` is there twice", model=_name(node)) for key, line in _repeated(node)]
    if repeated:
        found.problems += repeated
        return
    try:
        # A copy: constructing writes merged keys (<<) into nodes that other entries may share.
        raw = yaml.SafeLoader("").construct_document(copy.deepcopy(node))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2024-99-99 looks like a date and is none
        found.problems.append(_not_yaml(error, file, line, _name(node)))
        return
    parameters = raw.get("parameters")
    for path, owner, names in ((), raw, LOCALAI_ONLY), (("parameters",), parameters, LOCALAI_ONLY_PARAMETERS):
        for key in [key for key in owner if key in names] if isinstance(owner, dict) else []:
            del owner[key]
            reason = f"{'.'.join((*path, key))}: has no meaning for an embedding model; ignored"
            found.problems.append(Problem(file, _line(node, (*path, key)), reason, served=True))
    if raw.keys() <= {"name", "alias", "description"} and isinstance(raw.get("alias"), str) and isinstance(raw.get("name"), str):
        found.redirects.append(Redirect(raw["name"], raw["alias"], file, line))
        return
    try:
        config = ModelConfig.model_validate(raw, strict=False)
    except ValidationError as error:
        name = raw.get("name", "an entry without a name")
        for wrong in error.errors():
            found.problems.append(Problem(file, _line(node, wrong["loc"]), f"{name}: {_sentence(wrong)}", model=_name(node)))
    else:
        found.entries.append(Entry(config, file, line, _line(node, ("parameters", "model"))))


def _name(node: yaml.MappingNode) -> str | None:
    return next((value.value for key, value in node.value if key.value == "name" and isinstance(value, yaml.ScalarNode)), None)


def _not_yaml(error: Exception, file: Path, line: int, model: str | None = None) -> Problem:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or " ".join(str(error).split())
    return Problem(file, mark.line + 1 if mark else line, f"not YAML: {reason}", model=model)


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
