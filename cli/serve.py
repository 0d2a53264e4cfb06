"""`umekomi serve`: Valkey, a worker and the API on this machine, kept running, until Ctrl-C."""

from __future__ import annotations

import errno
import fcntl
import http.client
import json
import os
import shlex
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click

from cli.devices import NoDevices, worker_devices
from cli.localai import LocalAICommand
from cli.options import read_settings, settings_flags
from cli.processes import DIRECTORY, environment, web_command, worker_specs
from cli.supervisor import ProcessSpec, Supervisor
from cli.terminal import Terminal
from cli.valkey import EmbeddedValkey, NoValkey
from shared.access import KnownKeys
from shared.models import ModelRegistry, load_registry
from shared.settings import Settings

# Time for what is running to end, after which it is killed: requests, shards, the last write of the log.
WEB_GRACE_S = 10.0
VALKEY_GRACE_S = 10.0

LOOK_EVERY_S = 0.2


@click.command(cls=LocalAICommand)
@settings_flags
def serve(**flags: Any) -> None:
    """Run everything on this machine: Valkey, a worker and the API.

    Prints the address and a curl line once the models are loaded. What dies is started again; Ctrl-C stops all of it in
    order. Jobs and results lie in the data directory and outlive it. With --redis-url it uses your Redis or Valkey and
    starts none.

    \b
    umekomi serve
    umekomi serve --address 0.0.0.0:8080 --config-file models.yaml
    UMEKOMI_API_KEYS=a-secret,another umekomi serve --redis-url redis://127.0.0.1:6379/0
    """
    settings = read_settings(flags)
    try:
        devices = worker_devices(settings)
    except NoDevices as error:
        raise click.ClickException(str(error)) from None
    registry = _served_models(settings)
    lock = _claim(settings)
    terminal = Terminal()
    specs, redis_url = [], settings.redis_url
    if redis_url is None:
        try:
            valkey = EmbeddedValkey(settings.data_dir)
            # It inherits the lock: whoever outlives the other, nobody starts a second server on the same files.
            specs.append(
                ProcessSpec(
                    name="valkey",
                    command=valkey.command(),
                    environment=os.environ,
                    directory=valkey.directory,
                    grace_s=VALKEY_GRACE_S,
                    is_up=valkey.is_up,
                    is_quiet=True,
                    pass_fds=(lock,),
                )
            )
        except (NoValkey, OSError) as error:
            raise click.ClickException(str(error)) from None
        redis_url = valkey.url
    log_format = settings.log_format
    if log_format == "auto":  # their output comes through us, so they cannot see the terminal
        log_format = "human" if sys.stderr.isatty() else "json"
    variables = environment(settings, redis_url=redis_url, log_format=log_format, data_dir=str(settings.data_dir))
    variables["PYTHONUNBUFFERED"] = "1"
    specs += worker_specs(devices, variables)
    if not settings.preload_backend_only:
        specs.append(
            ProcessSpec(name="web", command=web_command(), environment=variables, directory=DIRECTORY, grace_s=WEB_GRACE_S)
        )

    started_at = time.monotonic()

    def announce(stopping: threading.Event) -> None:
        if settings.preload_backend_only:
            click.echo("umekomi runs a worker without the API. Ctrl-C stops it.")
            return
        if wait_until_ready(local_address(settings.address), terminal, stopping):
            terminal.status("")
            click.echo(welcome(settings, registry, time.monotonic() - started_at))
            sys.stdout.flush()

    Supervisor(specs, terminal).run(announce)


def _served_models(settings: Settings) -> ModelRegistry:
    """The models; what is wrong in the file is told, and ends the command only if nothing is left to serve."""
    try:
        registry = load_registry(settings)
    except OSError as error:
        raise click.ClickException(f"{settings.config_file} cannot be read: {error.strerror}") from None
    for problem in registry.problems:
        click.echo(str(problem), err=True)
    if not registry.models:
        raise click.ClickException(f"{settings.config_file} has no model to serve; see `umekomi config check`")
    return registry


def _claim(settings: Settings) -> int:
    """Make the data directory ours and see that the port is free; the file descriptor that holds the lock."""
    file = settings.data_dir / "serve.lock"
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise click.ClickException(f"the data directory {settings.data_dir} cannot be used: {error.strerror}") from None
    wrong = []
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        who = _oneline(file)
        wrong.append(f"umekomi already runs on the data directory {settings.data_dir}{who}; stop it or use another --data-dir")
    if not settings.preload_backend_only and (problem := port_problem(settings.address)):
        wrong.append(problem)
    if wrong:
        raise click.ClickException("\n".join(wrong))
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()}, http://{settings.address}\n".encode())
    return lock


def _oneline(file: Path) -> str:
    try:
        text = file.read_text().strip()
    except OSError:
        return ""
    return f" ({text})" if text else ""


def port_problem(address: str) -> str | None:
    """Why the API cannot listen there, as a sentence; None if it can."""
    host, _, port = address.rpartition(":")
    if port == "0":
        return f"the address {address} has no port; give one, such as {host}:8080"
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            probe.listen(1)  # two may bind with SO_REUSEADDR, one may listen
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"the port {port} of {host} is taken; stop what listens there or give another --address (UMEKOMI_ADDRESS)"
        return f"cannot listen on {address}: {error.strerror or error}"
    return None


def local_address(address: str) -> str:
    """Where a client on this machine reaches what listens on the address."""
    host, _, port = address.rpartition(":")
    return f"{ {'0.0.0.0': '127.0.0.1', '[::]': '[::1]', '::': '[::1]'}.get(host, host) }:{port}"


def wait_until_ready(address: str, terminal: Terminal, stopping: threading.Event) -> bool:
    """Ask /readyz until it agrees, telling what is missing. False if it was told to stop first."""
    host, _, port = address.rpartition(":")
    while missing := _missing(host.strip("[]"), int(port)):
        terminal.status(f"Starting: {missing}")
        if stopping.wait(LOOK_EVERY_S):
            return False
    return True


def _missing(host: str, port: int) -> str:
    """What /readyz says is not there yet; "" if everything is."""
    connection = http.client.HTTPConnection(host, port, timeout=5.0)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        return "waiting for the API"
    finally:
        connection.close()
    return "" if answer.status == 200 else describe_missing(body)


def describe_missing(body: bytes) -> str:
    """The readable part of a /readyz that says no."""
    try:
        missing = json.loads(body)["missing"]
        return "; ".join(str(part) for part in missing) if isinstance(missing, list) else str(missing)
    except (ValueError, KeyError, TypeError):
        return "waiting for the worker"


def welcome(settings: Settings, registry: ModelRegistry, seconds: float) -> str:
    """What is told when everything runs: where, and a line to try it with."""
    url = f"http://{local_address(settings.address)}"
    models = list(registry)
    body = json.dumps({"model": registry.get(None).name, "input": "Hello"}, ensure_ascii=False)
    needs_key = not KnownKeys.of(settings).is_open
    header = ' -H "Authorization: Bearer $UMEKOMI_API_KEY"' if needs_key else ""
    lines = [
        f"umekomi is ready at {url} after {seconds:.1f} s, serving {', '.join(model.name for model in models)}.",
        "Try it" + (" (UMEKOMI_API_KEY: one of your API keys):" if needs_key else ":"),
        "",
        f'  curl {url}/v1/embeddings{header} -H "Content-Type: application/json" -d {shlex.quote(body)}',
        "",
        f"Data: {settings.data_dir}. Ctrl-C stops it.",
    ]
    return "\n".join(lines)
