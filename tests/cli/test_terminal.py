from __future__ import annotations

import io

from cli.terminal import Terminal


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


class Closed(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError


def test_without_a_terminal_a_status_is_a_line_for_each_change() -> None:
    sink = io.StringIO()
    terminal = Terminal(sink)

    for text in ("starting", "starting", "loading", ""):
        terminal.status(text)
    terminal.line("ready")

    assert sink.getvalue() == "starting\nloading\nready\n"


def test_on_a_terminal_the_status_stays_below_the_lines() -> None:
    sink = Tty()
    terminal = Terminal(sink)

    terminal.status("starting")
    terminal.line("a log line")

    assert sink.getvalue() == "\r\x1b[Kstarting\r\x1b[Ka log line\nstarting"


def test_a_terminal_that_went_away_is_no_error() -> None:
    terminal = Terminal(Closed())

    terminal.line("a")
    terminal.status("b")
