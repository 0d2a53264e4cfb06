"""The models' entries and their files: right, there, and with room for what has to be fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cli.config import missing_files
from cli.doctor.disks import room
from cli.doctor.finding import Finding, fail, ok, warn
from shared.models import ModelConfig, find_source, load_registry
from shared.settings import Settings

ABOUT = "models"
_WEIGHTS = ("*.safetensors", "*.bin", "*.onnx", "*/*.safetensors", "*/*.bin", "*/*.onnx")


def check_models(settings: Settings) -> Iterator[Finding]:
    """Nothing is loaded, and no hub is asked."""
    try:
        registry = load_registry(settings)
    except OSError as error:
        yield fail(
            ABOUT, f"{settings.config_file} cannot be read: {error.strerror}", "correct --config-file (UMEKOMI_CONFIG_FILE)"
        )
        return
    for problem in registry.problems:
        yield (warn if problem.served else fail)(ABOUT, str(problem), "correct the line; `umekomi config check` looks again")
    absent = missing_files(registry)
    for problem in absent.values():
        yield fail(ABOUT, str(problem), "put its files there, or correct the line")
    if not registry.models:
        yield fail(ABOUT, "no entry is left to serve", "correct models.yaml; without one all-MiniLM-L6-v2 is served")
    has_to_fetch = False
    for model in registry:
        if model.name in absent:
            continue
        source = find_source(model, registry.directory)
        if source.directory is not None:
            yield _of_directory(model, source.directory)
        elif source.hub_id is not None:
            found = _of_hub(model, source.hub_id, settings)
            has_to_fetch = has_to_fetch or found.level == "warn"
            yield found
        else:
            yield ok(ABOUT, f"{model.name}: needs no files")
    if has_to_fetch:
        yield from room("hub cache", _hub_cache())


def _of_directory(model: ModelConfig, directory: Path) -> Finding:
    if not os.access(directory, os.R_OK | os.X_OK):
        return fail(ABOUT, f"{model.name}: {directory} cannot be read by this user", "chown or chmod it")
    if not (directory / "config.json").is_file() and not (directory / "modules.json").is_file():
        return fail(ABOUT, f"{model.name}: {directory} has neither modules.json nor config.json", "copy the whole model there")
    weights = [file for pattern in _WEIGHTS for file in directory.glob(pattern)]
    if not weights:
        return fail(ABOUT, f"{model.name}: {directory} has no weights", "copy the whole model there; `git lfs pull` in a clone")
    # What git leaves where git-lfs is not installed.
    if all(file.stat().st_size < 1024 for file in weights):
        return fail(ABOUT, f"{model.name}: the weights in {directory} are Git LFS pointers", "run `git lfs pull` there")
    return ok(ABOUT, f"{model.name}: its files are in {directory}")


def _of_hub(model: ModelConfig, hub_id: str, settings: Settings) -> Finding:
    revision = model.revision or "main"
    what = f"{model.name}: {hub_id} at {revision}"
    try:
        from shared.hub import Hub, cached
    except ImportError:
        return ok(ABOUT, f"{what}; fetched by workers, which do not run here (umekomi[worker] is not installed)")
    hub = Hub.of_environment(offline=settings.offline)
    if cached(hub, hub_id, model.revision) is not None:
        return ok(ABOUT, f"{what} is in the hub's cache")
    if settings.offline:
        return fail(ABOUT, f"{what} is not in the hub's cache, and no hub is asked (offline)", f"umekomi models pull {hub_id}")
    return warn(ABOUT, f"{what} is not here yet: it is fetched at its first use", f"umekomi models pull {hub_id} does so now")


def _hub_cache() -> Path:
    from shared.hub import Hub

    return Hub.of_environment().cache
