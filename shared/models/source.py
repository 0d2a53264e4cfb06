"""find_source: where the files of a model are, from what its entry says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shared.models.config import HUB_MODEL, WITHOUT_FILES, ModelConfig


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model's files are: a local directory, or a repository of the hub."""

    directory: Path | None = None
    hub_id: str | None = None


def find_source(config: ModelConfig, directory: Path) -> ModelSource:
    """Resolve `parameters.model`: package://NAME/PATH, an absolute path, a path under `directory`, or a hub id.

    Raises FileNotFoundError with what was looked for. Looks at the file system, imports nothing.
    """
    from importlib.util import find_spec

    if config.backend in WITHOUT_FILES:
        return ModelSource()
    spec = config.parameters.model
    if spec.startswith("package://"):
        package, _, inside = spec.removeprefix("package://").partition("/")
        # A dotted name would import what stands before its dot.
        found = find_spec(package) if package.isidentifier() else None
        if found is None or not found.submodule_search_locations:
            raise FileNotFoundError(f"the Python package {package} is not installed here ({spec})")
        path = Path(next(iter(found.submodule_search_locations))) / inside
        if not path.is_dir():
            raise FileNotFoundError(f"the Python package {package} has no directory {inside} ({spec})")
        return ModelSource(directory=path)
    if spec.startswith("file://"):
        spec = spec.removeprefix("file://")
    path = Path(spec).expanduser()
    if path.is_absolute():
        if not path.is_dir():
            raise FileNotFoundError(f"there is no model directory {spec}")
        return ModelSource(directory=path)
    if (directory / path).is_dir():
        return ModelSource(directory=directory / path)
    hub = HUB_MODEL.fullmatch(spec)
    if hub:
        return ModelSource(hub_id=hub["id"])  # config.revision says which of its versions
    raise FileNotFoundError(f"{spec} is neither a directory under {directory} nor a hub id such as org/name")
