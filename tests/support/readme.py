"""docs/settings.md, written from the settings and the comments that group them: python -m tests.support.readme"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from cli.options import default_text
from shared.settings import ENV_PREFIX, Settings

SETTINGS = Path(__file__).parents[2] / "docs" / "settings.md"
_BEGINNING = """\
# Settings

Each is a variable and a flag of `serve`, `web` and `worker` (`UMEKOMI_MAX_INPUTS`, `--max-inputs`); the flag wins. A wrong value
stops the process at start, by name. An empty variable counts as unset. LocalAI's names work too:
[from-localai.md](from-localai.md).

This page is written by `make readme`, from `shared/settings.py`.
"""
_HEADING = re.compile(r"    # (.+)")
_FIELD = re.compile(r"    (\w+): ")


def groups() -> dict[str, list[str]]:
    """The names of the settings below the comment that stands over them in the class, in its order."""
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in inspect.getsource(Settings).splitlines():
        if heading := _HEADING.fullmatch(line):
            names = found.setdefault(heading[1], [])
        elif (field := _FIELD.match(line)) and field[1] in Settings.model_fields:
            names.append(field[1])
    return {heading: names for heading, names in found.items() if names}


def settings_page() -> str:
    """The page as the settings are now."""
    parts = [_BEGINNING]
    for heading, names in groups().items():
        parts += ["", f"## {heading}", "", "| Variable | Default | What it is, when to change it |", "|---|---|---|"]
        for name in names:
            field = Settings.model_fields[name]
            parts.append(f"| `{ENV_PREFIX}{name.upper()}` | {default_text(name, field)} | {field.description} |")
    return "\n".join(parts).replace("\n\n\n", "\n\n") + "\n"


if __name__ == "__main__":
    SETTINGS.write_text(settings_page())
