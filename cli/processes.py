"""The processes of umekomi as commands: what to run for the API and for a worker, and the environment both read."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from pydantic import SecretStr

from shared.settings import ENV_PREFIX, Settings

# gunicorn and Celery both put the current directory on the module path, where somebody's own `worker` or `web` may lie.
# So they run in the directory that holds our packages; every path in their environment is absolute.
DIRECTORY = Path(__file__).parent.parent


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
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(ENV_PREFIX)}
    given = {name: getattr(settings, name) for name in sorted(settings.model_fields_set)}
    ours = {ENV_PREFIX + name.upper(): _to_variable(name, value) for name, value in given.items() if value is not None}
    return inherited | ours | {ENV_PREFIX + name.upper(): value for name, value in overrides.items()}


def run_instead(command: list[str], settings: Settings) -> NoReturn:
    """Become the command; its signals and exit code are the caller's to see."""
    os.chdir(DIRECTORY)
    os.execve(command[0], command, environment(settings))


def _to_variable(name: str, value: Any) -> str:
    if name == "api_keys":
        return ",".join(key.get_secret_value() for key in value)
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if name == "storage_url" and "://" not in value:
        return str(Path(value).expanduser().absolute())
    return str(value)
