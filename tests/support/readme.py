"""README's settings table, written anew from the settings: python -m tests.support.readme"""

from __future__ import annotations

import re
from pathlib import Path

from cli.options import settings_table

README = Path(__file__).parents[2] / "README.md"
_TABLE = re.compile(r"(<!-- settings: .*? -->\n).*?(<!-- settings end -->)", re.DOTALL)


def with_table(text: str) -> str:
    """The text with the table as the settings are now."""
    return _TABLE.sub(lambda found: f"{found[1]}{settings_table()}\n{found[2]}", text)


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
