"""Supervisor: starts processes in order, starts again what dies, stops them in the reverse order, leaves none behind.

Each process has a thread that starts it, waits for its end and starts it again; nothing polls. The thread lives as long
as its process, which matters: the kernel kills a process when the *thread* that started it ends (see launch.py), and
that is how nothing survives a kill -9 of this process.
"""

from __future__ import annotations

import itertools
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cli.terminal import Terminal

# A process that ran for so long was well: its next death counts as the first.
WELL_AFTER_S = 30.0
FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0
# Between two looks whether a process answers, at start.
LOOK_EVERY_S = 0.05

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LAUNCHER = Path(__file__).with_name("launch.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A process to keep running."""

    name: str
    command: Sequence[str]  # the first is an absolute path
    environment: Mapping[str, str]
    directory: Path
    grace_s: float  # between SIGTERM and SIGKILL
    is_up: Callable[[], bool] | None = None  # the next process starts when this says so
    is_quiet: bool = False  # its output is told only when it dies
    pass_fds: tuple[int, ...] = field(default=())  # file descriptors that it inherits
    group: str | None = None  # neighbours of one group are stopped side by side


def restart_delay_s(deaths: int) -> float:
    """How long to wait after the so-manieth death in a row, from 1: doubling, up to a ceiling."""
    return min(FIRST_DELAY_S * 2.0 ** min(deaths - 1, 32), MAX_DELAY_S)


def describe_end(returncode: int) -> str:
    """How a process ended, from its return code as subprocess gives it."""
    if returncode < 0:
        try:
            return f"was killed by {signal.Signals(-returncode).name}"
        except ValueError:
            return f"was killed by signal {-returncode}"
    return f"ended with exit code {returncode}"


class SupervisedProcess:
    """One process, kept running by a thread of its own until `stop`."""

    def __init__(self, spec: ProcessSpec, terminal: Terminal) -> None:
        self.spec = spec
        self._terminal = terminal
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # guards the process id: it is ours to signal only until it is reaped
        self._pid: int | None = None
        self._thread = threading.Thread(target=self._keep_running, name=f"keep {spec.name}", daemon=True)

    def start(self) -> None:
        """Returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """SIGTERM, a grace, SIGKILL; returns when the process and what it started are gone."""
        self._stopping.set()
        if not self._thread.is_alive():
            return
        self._signal(signal.SIGTERM)
        self._thread.join(self.spec.grace_s)
        if self._thread.is_alive():
            self._terminal.line(f"{self.spec.name} did not stop within {self.spec.grace_s:g} s; it is killed")
            self.kill()
            self._thread.join()

    def kill(self) -> None:
        """SIGKILL to it and to all it started; it does not start again."""
        self._stopping.set()
        self._signal(signal.SIGKILL, to_group=True)

    def _signal(self, number: signal.Signals, *, to_group: bool = False) -> None:
        with self._lock, suppress(ProcessLookupError):
            if self._pid is not None:
                (os.killpg if to_group else os.kill)(self._pid, number)

    def _keep_running(self) -> None:
        deaths = 0
        while not self._stopping.is_set():
            started_at = time.monotonic()
            end, last_words = self._run_once()
            if self._stopping.is_set():
                return
            ran_s = time.monotonic() - started_at
            deaths = 1 if ran_s >= WELL_AFTER_S else deaths + 1
            delay_s = restart_delay_s(deaths)
            said = f" (it last said: {last_words})" if last_words else ""
            self._terminal.line(f"{self.spec.name} {end} after {ran_s:.1f} s{said}; starting it again in {delay_s:g} s")
            self._stopping.wait(delay_s)

    def _run_once(self) -> tuple[str, str]:
        """Start it, pass its output on, wait for its end; returns how it ended, and its last line if it ended by itself."""
        with self._lock:
            if self._stopping.is_set():
                return "was not started", ""
            try:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *self.spec.command],
                    env=dict(self.spec.environment),
                    cwd=self.spec.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=self.spec.pass_fds,
                    process_group=0,  # Ctrl-C is for us alone: we stop them in order
                )
            except OSError as error:
                return f"cannot be started: {error}", ""
            self._pid = process.pid
        last_line: deque[str] = deque(maxlen=1)
        name = f"output of {self.spec.name}"
        output = threading.Thread(target=self._pass_on, args=(process, last_line), name=name, daemon=True)
        output.start()
        # Dead but not reaped, its id still names its group: what it started and left behind goes too.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            with suppress(ProcessLookupError, PermissionError):  # nobody is left; macOS calls that "not permitted"
                os.killpg(process.pid, signal.SIGKILL)
            self._pid = None
            process.wait()
        # The pipe ends with its last writer; one that made itself a session of its own is not waited for.
        output.join(timeout=1.0)
        # Whoever was killed said nothing about it.
        last_words = last_line[0] if last_line and process.returncode >= 0 else ""
        return describe_end(process.returncode), last_words

    def _pass_on(self, process: subprocess.Popen[bytes], last_line: deque[str]) -> None:
        assert process.stdout is not None
        with process.stdout as output:
            while raw := output.readline(65_536):
                text = raw.decode(errors="replace").rstrip()
                if stripped := _COLOURS.sub("", text).strip():
                    last_line.append(stripped[:500])
                if not self.spec.is_quiet:
                    self._terminal.line(text)


Event = Literal["signal", "stopped"]


class Supervisor:
    """Runs processes until a signal asks to stop; a second signal kills them."""

    def __init__(self, specs: Sequence[ProcessSpec], terminal: Terminal) -> None:
        self._terminal = terminal
        self._processes = [SupervisedProcess(spec, terminal) for spec in specs]
        self._stopping = threading.Event()
        # Filled by signal handlers: SimpleQueue is the one that may be.
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def run(self, when_started: Callable[[threading.Event], None]) -> None:
        """Blocks the main thread until everything has stopped. `when_started` gets an event that tells it to give up."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            starter = threading.Thread(target=self._start, args=(when_started,), name="start", daemon=True)
            starter.start()
            self._next_event()
            self._stopping.set()
            self._terminal.status("Stopping; a second Ctrl-C kills the rest")
            threading.Thread(target=self._stop, args=(starter,), name="stop", daemon=True).start()
            while self._next_event() == "signal":
                for process in self._processes:
                    process.kill()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _next_event(self) -> Event:
        # A signal that comes while this thread is just about to wait is noticed only when it wakes.
        while True:
            with suppress(queue.Empty):
                return self._events.get(timeout=1.0)

    def stop(self) -> None:
        """As the first Ctrl-C; from any thread."""
        self._events.put("signal")

    def _on_signal(self, _number: int, _frame: Any) -> None:
        self._events.put("signal")

    def _start(self, when_started: Callable[[threading.Event], None]) -> None:
        for process in self._processes:
            if self._stopping.is_set():
                return
            process.start()
            while process.spec.is_up is not None and not process.spec.is_up():
                if self._stopping.wait(LOOK_EVERY_S):
                    return
        when_started(self._stopping)

    def _stop(self, starter: threading.Thread) -> None:
        starter.join()
        for _, group in itertools.groupby(reversed(self._processes), lambda process: process.spec.group or process.spec.name):
            processes = list(group)
            names = ", ".join(process.spec.name for process in processes)
            self._terminal.status(f"Stopping {names}, finishing what runs; a second Ctrl-C kills the rest")
            with ThreadPoolExecutor(len(processes)) as pool:
                list(pool.map(SupervisedProcess.stop, processes))
        self._terminal.status("")
        self._events.put("stopped")
