"""ModelRegistry: all served models by name, and what was wrong with those that are not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shared.errors import ModelNotFound
from shared.models.config import ModelConfig

# Characters of a name that nobody has that are told back: a caller may send a megabyte.
MAX_TOLD = 200


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a configuration file; `served` tells whether its entry serves all the same."""

    file: Path
    line: int  # from 1
    message: str
    served: bool = False
    model: str | None = None  # the name of an entry that is wrong in itself

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


class Models(Protocol):
    """What whoever asks for models wants of a registry: a ModelRegistry, or a LiveRegistry whose models change."""

    @property
    def models(self) -> Mapping[str, ModelConfig]:
        """By name and by alias."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong in the configuration files."""

    @property
    def directory(self) -> Path:
        """Where relative model paths start."""

    @property
    def lines(self) -> Mapping[str, tuple[Path, int]]:
        """By name: the file and line that say `parameters: model:`."""

    def __iter__(self) -> Iterator[ModelConfig]:
        """Every model once."""

    def get(self, name: str | None) -> ModelConfig:
        """The model of this name or alias; without one, the default. Raises ModelNotFound."""


@dataclass(frozen=True, slots=True)
class ModelRegistry:
    """The served models in the order of the files, and what was wrong with those that are not."""

    models: Mapping[str, ModelConfig]  # by name and by alias
    problems: tuple[Problem, ...] = ()
    directory: Path = field(default_factory=Path.cwd)  # relative model paths start here
    lines: Mapping[str, tuple[Path, int]] = field(default_factory=dict)  # by name: what says `parameters: model:`
    readable: frozenset[Path] = frozenset()  # files that are YAML

    def __iter__(self) -> Iterator[ModelConfig]:
        """Every model once."""
        return iter(_unique(self.models.values()))

    def get(self, name: str | None) -> ModelConfig:
        """The model of this name or alias; without one, the default. Raises ModelNotFound, listing what is served."""
        models = list(self)
        if name is None or name == "":
            if not models:
                raise ModelNotFound("no model is configured", param="model")
            embedding = next((model for model in models if not model.reranking), models[0])
            return next((model for model in models if model.default), embedding)
        if name in self.models:
            return self.models[name]
        served = ", ".join(sorted(self.models)) or "none"
        raise ModelNotFound(f"the model {name[:MAX_TOLD]!r} is not served here; served: {served}", param="model")


def _unique(models: Iterable[ModelConfig]) -> list[ModelConfig]:
    return list({model.name: model for model in models}.values())


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry that is right in itself, and where it stands."""

    config: ModelConfig
    file: Path
    line: int
    model_line: int  # of `parameters: model:`


@dataclass(frozen=True, slots=True)
class Redirect:
    """An entry of LocalAI's that is only a name for another one: `name` and `alias`, nothing else."""

    name: str
    target: str
    file: Path
    line: int


def make_registry(
    entries: Sequence[Entry],
    problems: Iterable[Problem],
    directory: Path,
    *,
    redirects: Sequence[Redirect] = (),
    files: Sequence[Path] = (),
    readable: Iterable[Path] = (),
) -> ModelRegistry:
    """A name belongs to the first entry that has it; the others are problems. `files` is the order to tell problems in."""
    found = list(problems)
    models: dict[str, ModelConfig] = {}
    owners: dict[str, Entry | Redirect] = {}
    for entry in entries:
        config = entry.config
        if config.disabled:
            continue
        if not config.embeddings and not config.reranking:
            found.append(Problem(entry.file, entry.line, f"{config.name}: embeddings is false, so umekomi does not serve it"))
            continue
        names = [name for name in dict.fromkeys((config.name, config.alias)) if name]
        taken = next((name for name in names if name in models), None)
        if taken is not None:
            found.append(_taken(entry, taken, owners[taken]))
            continue
        models.update(dict.fromkeys(names, config))
        owners.update(dict.fromkeys(names, entry))
    for redirect in redirects:
        target = models.get(redirect.target)
        if redirect.name in models:
            found.append(_taken(redirect, redirect.name, owners[redirect.name]))
        elif target is None or isinstance(owners[redirect.target], Redirect):
            reason = f"{redirect.name}: alias: there is no model {redirect.target!r} that it could lead to"
            found.append(Problem(redirect.file, redirect.line, reason, model=redirect.name))
        else:
            models[redirect.name] = target
            owners[redirect.name] = redirect
    served = [entry for entry in entries if owners.get(entry.config.name) is entry]
    defaults = [entry for entry in served if entry.config.default]
    for entry in defaults[1:]:
        reason = f"{entry.config.name}: `default: true` is already said by {defaults[0].config.name}, which is the default"
        found.append(Problem(entry.file, entry.line, reason, served=True))
    order = {file: number for number, file in enumerate(files)}
    found.sort(key=lambda problem: (order.get(problem.file, -1), problem.line))
    lines = {entry.config.name: (entry.file, entry.model_line) for entry in served}
    return ModelRegistry(models, tuple(found), directory, lines, frozenset(readable))


def _taken(thing: Entry | Redirect, name: str, owner: Entry | Redirect) -> Problem:
    where = "an entry above" if owner.file == thing.file else f"{owner.file}:{owner.line}"
    return Problem(thing.file, thing.line, f"the name {name!r} is taken by {where}")
