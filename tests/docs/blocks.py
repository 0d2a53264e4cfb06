"""The documents, and the fenced blocks of code in them."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"( *)```(\S*)\s*")
_NOT_RUN = re.compile(r" *<!-- not run: (.+) -->")

# A block says in which language it is. `text` is what is only to be read.
LANGUAGES = ("sh", "python", "javascript", "yaml", "json", "text", "mermaid", "ini", "promql", "html")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `<!-- not run: WHY -->` in the line before it says why it is only parsed."""

    page: Path
    line: int  # of its first line of code, from 1
    language: str
    code: str
    not_run: str | None = None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def in_place(self) -> str:
        """The code at the lines of its page, so that whatever runs it tells those."""
        return "\n" * (self.line - 1) + self.code


def pages() -> list[Path]:
    """Every document that people read."""
    return [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *sorted((ROOT / "deploy").rglob("*.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
    ]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page in its order. Raises ValueError at one that does not end."""
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.fullmatch(lines[number])
        number += 1
        if fence is None:
            continue
        start = number
        while number < len(lines) and lines[number].strip() != "```":
            number += 1
        if number == len(lines):
            raise ValueError(f"{page}:{start}: the block does not end")
        note = _NOT_RUN.fullmatch(lines[start - 2]) if start > 1 else None
        code = textwrap.dedent("\n".join(lines[start:number])) + "\n"
        yield Block(page, start + 1, fence[2], code, note[1] if note else None)
        number += 1


def values(code: str) -> list[object]:
    """What a block of JSON holds: one value, or one a line. Raises ValueError."""
    try:
        return [json.loads(code)]
    except ValueError:
        return [json.loads(line) for line in code.splitlines()]
