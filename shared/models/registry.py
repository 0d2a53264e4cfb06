"""ModelRegistry: all served models by name, and what was wrong with those that are not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import ModelNotFound
from shared.models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a configuration file; `served` tells whether its entry serves all the same."""

    file: Path
    line: int  # from 1
    message: str
    served: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class ModelRegistry:
    """The served models in the order of the file, and what was wrong with those that are not."""

    models: Mapping[str, ModelConfig]  # by name and by alias
    problems: tuple[Problem, ...] = ()
    directory: Path = field(default_factory=Path.cwd)  # relative model paths start here
    lines: Mapping[str, int] = field(default_factory=dict)  # by name: where the file says `parameters: model:`

    def __iter__(self) -> Iterator[ModelConfig]:
        """Every model once."""
        return iter(_unique(self.models.values()))

    def get(self, name: str | None) -> ModelConfig:
        """The model of this name or alias; without one, the default. Raises ModelNotFound, listing what is served."""
        models = list(self)
        if name is None or name == "":
            if not models:
                raise ModelNotFound("no model is configured", param="model")
            return next((model for model in models if model.default), models[0])
        if name in self.models:
            return self.models[name]
        served = ", ".join(sorted(self.models)) or "none"
        raise ModelNotFound(f"the model {name!r} is not served here; served: {served}", param="model")


def _unique(models: Iterable[ModelConfig]) -> list[ModelConfig]:
    return list({model.name: model for model in models}.values())


def make_registry(entries: list[tuple[ModelConfig, int]], problems: list[Problem], file: Path, directory: Path) -> ModelRegistry:
    models: dict[str, ModelConfig] = {}
    for config, line in entries:
        if config.disabled:
            continue
        if not config.embeddings:
            problems.append(Problem(file, line, f"{config.name}: embeddings is false, so umekomi does not serve it"))
            continue
        taken = [name for name in (config.name, config.alias) if name and name in models]
        if taken:
            problems.append(Problem(file, line, f"the name {taken[0]!r} is taken by an entry above"))
            continue
        models[config.name] = config
        if config.alias:
            models[config.alias] = config
    defaults = [(config, line) for config, line in entries if config.default and models.get(config.name) is config]
    for config, line in defaults[1:]:
        reason = f"{config.name}: `default: true` is already said by {defaults[0][0].name}, which is the default"
        problems.append(Problem(file, line, reason, served=True))
    return ModelRegistry(models, tuple(sorted(problems, key=lambda problem: problem.line)), directory)
