"""The type of the fixtures `run` and `ask`: `umekomi ARGUMENTS…` in this process."""

from __future__ import annotations

from collections.abc import Callable

from click.testing import Result

Run = Callable[..., Result]
