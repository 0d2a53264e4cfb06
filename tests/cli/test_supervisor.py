from __future__ import annotations

import os
import queue
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.supervisor import (
    MAX_DELAY_S,
    ProcessSpec,
    SupervisedProcess,
    Supervisor,
    describe_end,
    restart_delay_s,
)
from cli.terminal import Terminal

ROOT = Path(__file__).parents[2]
WAIT_S = 20.0

# Says its process id, then waits for SIGTERM and notes its end in the file that is its first argument.
POLITE = """
import os, signal, sys
def end(*_):
    with open(sys.argv[1], "a") as notes:
        notes.write(sys.argv[2] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print(sys.argv[2], "is", os.getpid(), flush=True)
while True:
    signal.pause()
"""
STUBBORN = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("is", os.getpid(), flush=True)
while True:
    signal.pause()
"""
BROKEN = 'print("a log line", flush=True); raise SystemExit("the model directory is gone")'
# Starts a child of its own, says both ids and waits.
PARENT = """
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"], stdout=subprocess.PIPE)
child.stdout.readline()
print("is", os.getpid(), "child", child.pid, flush=True)
signal.pause()
"""


class Screen:
    """A place to write to whose lines can be waited for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._new: queue.Queue[str] = queue.Queue()

    def isatty(self) -> bool:
        return False

    def flush(self) -> None: ...

    def write(self, text: str) -> int:
        for line in text.splitlines():
            self.lines.append(line)
            self._new.put(line)
        return len(text)

    def wait_for(self, part: str) -> str:
        """The next line, of those not waited for yet, that has the part in it."""
        deadline = time.monotonic() + WAIT_S
        while True:
            line = self._new.get(timeout=max(0.0, deadline - time.monotonic()))
            if part in line:
                return line


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
def started(screen: Screen) -> Iterator[list[SupervisedProcess]]:
    processes: list[SupervisedProcess] = []
    yield processes
    for process in processes:
        process.kill()


def spec(name: str, code: str, *arguments: object, grace_s: float = WAIT_S, **options: object) -> ProcessSpec:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return ProcessSpec(
        name=name,
        command=command,
        environment=dict(os.environ),
        directory=ROOT,
        grace_s=grace_s,
        **options,  # type: ignore[arg-type]
    )


def start(processes: list[SupervisedProcess], screen: Screen, one: ProcessSpec) -> SupervisedProcess:
    process = SupervisedProcess(one, Terminal(screen))  # type: ignore[arg-type]
    processes.append(process)
    process.start()
    return process


def pid_in(line: str, word: str = "is") -> int:
    words = line.split()
    return int(words[words.index(word) + 1])


def wait_until_gone(pid: int) -> None:
    """Returns when no such process is left; a dead one whose parent has not looked yet counts as gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], WAIT_S)[0], f"process {pid} is still there"
    finally:
        os.close(handle)


def test_processes_stop_in_the_reverse_order_of_their_start(screen: Screen, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    specs = [spec(name, POLITE, notes, name) for name in ("valkey", "worker", "web")]
    supervisor = Supervisor(specs, Terminal(screen))  # type: ignore[arg-type]

    def stop_when_all_are_up(_stopping: object) -> None:
        for _ in specs:
            screen.wait_for(" is ")
        supervisor.stop()

    supervisor.run(stop_when_all_are_up)

    assert notes.read_text().split() == ["web", "worker", "valkey"]
    for line in screen.lines:
        if " is " in line:
            wait_until_gone(pid_in(line))


def test_the_next_process_starts_when_the_one_before_it_is_up(screen: Screen, tmp_path: Path) -> None:
    # The second process leaves a file behind as soon as it runs.
    sign = tmp_path / "second runs"
    there_at_each_look: list[bool] = []

    def is_up() -> bool:
        there_at_each_look.append(sign.exists())
        return len(there_at_each_look) == 3

    specs = [
        spec("first", POLITE, tmp_path / "notes", "first", is_up=is_up),
        spec("second", f"open({str(sign)!r}, 'w').close()" + POLITE, tmp_path / "notes", "second"),
    ]
    supervisor = Supervisor(specs, Terminal(screen))  # type: ignore[arg-type]

    def stop_when_the_second_is_up(_stopping: object) -> None:
        screen.wait_for("second is")
        supervisor.stop()

    supervisor.run(stop_when_the_second_is_up)

    assert there_at_each_look == [False, False, False]
    assert sign.exists()


def test_a_killed_process_is_started_again_and_the_signal_is_named(
    screen: Screen, started: list[SupervisedProcess], tmp_path: Path
) -> None:
    start(started, screen, spec("worker", POLITE, tmp_path / "notes", "worker"))
    first = pid_in(screen.wait_for("worker is"))

    os.kill(first, signal.SIGKILL)

    said = screen.wait_for("starting it again")
    assert said.startswith("worker was killed by SIGKILL after ")
    assert pid_in(screen.wait_for("worker is")) != first


def test_what_a_killed_process_had_started_is_gone_before_it_starts_again(
    screen: Screen, started: list[SupervisedProcess]
) -> None:
    start(started, screen, spec("web", PARENT))
    line = screen.wait_for("child")

    os.kill(pid_in(line), signal.SIGKILL)

    screen.wait_for("starting it again")
    wait_until_gone(pid_in(line, "child"))


def test_a_process_that_dies_at_start_says_its_last_line_and_waits_longer_each_time(
    screen: Screen, started: list[SupervisedProcess]
) -> None:
    start(started, screen, spec("worker", BROKEN))

    first, second = (screen.wait_for("starting it again") for _ in range(2))

    assert "worker ended with exit code 1 after" in first
    assert "(it last said: the model directory is gone); starting it again in 0.5 s" in first
    assert second.endswith("starting it again in 1 s")


def test_a_command_that_cannot_be_run_is_an_end_like_any_other(screen: Screen, started: list[SupervisedProcess]) -> None:
    missing = spec("valkey", "")
    start(
        started, screen, ProcessSpec(**{**{name: getattr(missing, name) for name in missing.__slots__}, "command": ["/nowhere"]})
    )

    assert "/nowhere cannot be run: No such file or directory" in screen.wait_for("starting it again")


def test_a_quiet_process_is_heard_only_when_it_dies(screen: Screen, started: list[SupervisedProcess]) -> None:
    start(started, screen, spec("valkey", BROKEN, is_quiet=True))

    screen.wait_for("it last said: the model directory is gone")

    assert "a log line" not in screen.lines


def test_a_process_that_ignores_sigterm_is_killed_after_its_grace(screen: Screen, started: list[SupervisedProcess]) -> None:
    process = start(started, screen, spec("worker", STUBBORN, grace_s=0.2))
    pid = pid_in(screen.wait_for("is "))

    process.stop()

    assert "worker did not stop within 0.2 s; it is killed" in screen.lines
    wait_until_gone(pid)


def test_a_second_signal_kills_what_does_not_stop(screen: Screen) -> None:
    supervisor = Supervisor([spec("worker", STUBBORN, grace_s=600)], Terminal(screen))  # type: ignore[arg-type]
    pids = []

    def interrupt_twice(_stopping: object) -> None:
        pids.append(pid_in(screen.wait_for("is ")))
        os.kill(os.getpid(), signal.SIGINT)
        screen.wait_for("Stopping")
        os.kill(os.getpid(), signal.SIGINT)

    supervisor.run(interrupt_twice)

    wait_until_gone(pids[0])


def test_a_signal_while_the_first_process_never_comes_up_stops_all(screen: Screen, tmp_path: Path) -> None:
    def never() -> bool:
        supervisor.stop()
        return False

    specs = [spec("valkey", POLITE, tmp_path / "notes", "valkey", is_up=never), spec("web", POLITE, tmp_path / "notes", "web")]
    supervisor = Supervisor(specs, Terminal(screen))  # type: ignore[arg-type]

    supervisor.run(lambda _stopping: pytest.fail("it never started"))

    assert not any("web is" in line for line in screen.lines)


def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from cli.supervisor import ProcessSpec, Supervisor
from cli.terminal import Terminal
from pathlib import Path
specs = [
    ProcessSpec(name=name, command=[sys.executable, "-c", {POLITE!r}, {str(tmp_path / "notes")!r}, name], environment={{}},
                directory=Path("/"), grace_s=1)
    for name in ("one", "two")
]
Supervisor(specs, Terminal(sys.stdout)).run(lambda stopping: None)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        lines = [supervisor.stdout.readline() for _ in range(2)]

        supervisor.kill()

        for line in lines:
            wait_until_gone(pid_in(line))
    assert not (tmp_path / "notes").exists()


@pytest.mark.parametrize(("deaths", "delay_s"), [(1, 0.5), (2, 1.0), (4, 4.0), (7, MAX_DELAY_S), (10_000, MAX_DELAY_S)])
def test_the_delay_doubles_up_to_a_ceiling(deaths: int, delay_s: float) -> None:
    assert restart_delay_s(deaths) == delay_s


@pytest.mark.parametrize(
    ("returncode", "sentence"),
    [
        (0, "ended with exit code 0"),
        (-9, "was killed by SIGKILL"),
        (-11, "was killed by SIGSEGV"),
        (-63, "was killed by signal 63"),
    ],
)
def test_an_end_is_described(returncode: int, sentence: str) -> None:
    assert describe_end(returncode) == sentence
