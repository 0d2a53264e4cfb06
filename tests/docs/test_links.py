"""Links between documents, and the index of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, pages

_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_and_heading_that_a_document_links_to_is_there(page: Path) -> None:
    for file, anchor in _LINK.findall(_CODE.sub("", page.read_text())):
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.relative_to(ROOT)} links to {file}"
        assert not anchor or anchor in anchors(target), f"{page.relative_to(ROOT)} links to {file}#{anchor}"


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / file).resolve() for file, _ in _LINK.findall(index.read_text())}

    pages_of_docs = {*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").glob("*.ipynb")} - {index}
    assert {str(page.relative_to(ROOT)) for page in pages_of_docs - linked} == set()
