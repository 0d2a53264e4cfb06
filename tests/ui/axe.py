"""axe-core in a page: what it finds wrong with it for people who use a keyboard or a screen reader."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from playwright.sync_api import Page

GRAVE = ("serious", "critical")


@cache
def _script() -> str:
    """axe-core (MPL-2.0), as the package axe-playwright-python has it."""
    return files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def grave_issues(page: Page) -> list[str]:
    """Serious and critical ones, each with where it is."""
    page.evaluate(_script())
    found: list[dict[str, Any]] = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations)")
    return [
        f"{issue['id']}: {node['target']} {node['failureSummary']}"
        for issue in found
        if issue["impact"] in GRAVE
        for node in issue["nodes"]
    ]
