"""The processes of umekomi as commands: what to run for the API and for a worker, and the environment both read."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from pydantic import SecretStr

from cli.supervisor import ProcessSpec
from shared import localai
from shared.settings import ENV_PREFIX, Settings

# gunicorn and Celery both put the current directory on the module path, where somebody's own `worker` or `web` may lie.
# So they run in the directory that holds our packages; every path in their environment is absolute.
DIRECTORY = Path(__file__).parent.parent
# Time for the shards that a worker runs to end, after which it is killed.
WORKER_GRACE_S = 20.0
# The same where workers run alone, as in a container: just below what deploy/ lets them have.
DRAIN_S = 55.0


def web_command() -> list[str]:
    """gunicorn with our configuration."""
    spec = find_spec("web")
    assert spec is not None, "web is installed with cli"
    folder = next(iter(spec.submodule_search_locations or ()))
    return [sys.executable, "-P", "-m", "gunicorn", "-c", str(Path(folder) / "gunicorn_conf.py"), "web.wsgi:app"]


def worker_command() -> list[str]:
    """Celery without the chatter between workers: presence is ours, and mingling costs a second of every start."""
    # Its warning about root is about pickled messages, which could hold code; ours are JSON of an id and a number.
    python = [sys.executable, "-P", "-W", "ignore:You're running the worker with superuser privileges"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    return [*python, "-m", "celery", "--quiet", "-A", "worker.app", "worker", "--pool", "threads", *quiet]


def environment(settings: Settings, **overrides: str) -> dict[str, str]:
    """This process's environment with the settings in it. API keys travel here, never on a command line."""
    # A coverage or profiling hook of the caller goes on working: everything that is not ours stays.
    # What LocalAI's variables say is among the settings.
    theirs = localai.known_variables()
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith((ENV_PREFIX, localai.PREFIX)) and name not in theirs
    }
    given = {name: getattr(settings, name) for name in sorted(settings.model_fields_set)}
    ours = {ENV_PREFIX + name.upper(): _to_variable(name, value) for name, value in given.items() if value is not None}
    # Arrow's own allocator keeps what a large table needed; it is chosen when the library is loaded, and by this alone.
    default = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
    return default | inherited | ours | {ENV_PREFIX + name.upper(): value for name, value in overrides.items()}


def worker_specs(devices: Sequence[str], variables: Mapping[str, str], grace_s: float = WORKER_GRACE_S) -> list[ProcessSpec]:
    """One worker for each device, to be kept running beside each other."""
    return [
        ProcessSpec(
            name="worker" if len(devices) == 1 else f"worker {device}",
            command=worker_command(),
            environment={**variables, f"{ENV_PREFIX}DEVICE": device, f"{ENV_PREFIX}DEVICES": ""},
            directory=DIRECTORY,
            grace_s=grace_s,
            group="worker",
        )
        for device in devices
    ]


def run_instead(command: list[str], settings: Settings) -> NoReturn:
    """Become the command; its signals and exit code are the caller's to see."""
    os.chdir(DIRECTORY)
    os.execve(command[0], command, environment(settings))


def _to_variable(name: str, value: Any) -> str:
    if name == "api_keys":
        return ",".join(key.get_secret_value() for key in value)
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(value)
    if name == "storage_url" and "://" not in value:
        return str(Path(value).expanduser().absolute())
    return str(value)
