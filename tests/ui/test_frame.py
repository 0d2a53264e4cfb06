"""What all views have in common: the key, the languages, colours, the keyboard, narrow screens, and axe-core's verdict."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from tests.ui.axe import grave_issues
from tests.ui.conftest import KEY, OpenPage, rows, submit

VIEWS = ("live", "jobs", "job", "submit", "playground")


@pytest.fixture(scope="session")
def job(api: httpx.Client) -> str:
    """A job with something in every part of its page."""
    return submit(api, rows(40) + "{bad\n", model="quick")


def path_of(view: str, job: str) -> str:
    """Its address."""
    return f"job/{job}" if view == "job" else view


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_any_view(open_page: OpenPage, job: str, scheme: str) -> None:
    page = open_page("live", color_scheme=scheme)
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    issues: dict[str, list[str]] = {}
    for view in VIEWS:
        page.goto(f"{page.url.partition('#')[0]}#/{path_of(view, job)}")
        page.wait_for_load_state("networkidle") if view in ("submit", "playground") else None
        if view == "job":
            expect(page.get_by_role("heading", name="Rows that failed")).to_be_visible()
        elif view == "jobs":
            expect(page.get_by_role("table")).to_be_visible()
        issues |= {view: found} if (found := grave_issues(page)) else {}
    assert not issues


def test_no_view_scrolls_sideways_on_a_phone(open_page: OpenPage, job: str) -> None:
    page = open_page("live", viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    widths = {}
    for view in VIEWS:
        page.goto(f"{page.url.partition('#')[0]}#/{path_of(view, job)}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        if view in ("jobs", "job"):
            expect(page.get_by_role("table").first).to_be_visible()
        elif view == "playground":
            expect(page.locator("#model option")).not_to_have_count(0)
            page.get_by_role("button", name="Fill in an example").click()
            page.get_by_role("button", name="Embed", exact=True).click()
            expect(page.get_by_role("grid")).to_be_visible()
        widths[view] = page.evaluate("document.documentElement.scrollWidth")
    assert widths == dict.fromkeys(VIEWS, 360)


def test_a_key_is_asked_for_kept_in_the_tab_alone_and_forgotten_when_told(open_page: OpenPage, keyed_url: str) -> None:
    page = open_page("live", url=keyed_url)
    dialog = page.get_by_role("dialog", name="This server wants an API key")
    expect(dialog).to_be_visible()
    expect(page.locator("#key")).to_be_focused()

    page.locator("#key").fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_have_text("the API key is not one of this server's")
    page.locator("#key").fill(KEY)
    page.keyboard.press("Enter")

    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    kept: dict[str, Any] = page.evaluate("({...localStorage})")
    assert KEY not in str(kept)
    assert page.evaluate("sessionStorage.getItem('umekomi.key')") == KEY
    assert page.context.cookies() == []

    page.get_by_role("button", name="Forget the key").click()
    expect(dialog).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


def test_the_page_speaks_japanese_to_whoever_wants_it_and_remembers_a_choice(open_page: OpenPage) -> None:
    page = open_page("live", locale="ja-JP")
    expect(page.get_by_role("heading", level=1)).to_have_text("稼働状況")
    assert page.evaluate("document.documentElement.lang") == "ja"

    page.get_by_label("言語").select_option("en")
    expect(page.get_by_role("heading", level=1)).to_have_text("Live")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Live")


def test_both_languages_have_every_message(open_page: OpenPage) -> None:
    page = open_page("live")
    keys = page.evaluate(
        """async () => {
          const { LANGUAGES } = await import(new URL("ui/js/i18n.js", document.baseURI));
          const parts = ["common", "live", "jobs", "job", "submit", "playground"];
          const found = {};
          for (const language of Object.keys(LANGUAGES)) {
            const modules = await Promise.all(
              parts.map((part) => import(new URL(`ui/locales/${language}/${part}.js`, document.baseURI))));
            found[language] = modules.flatMap((module) => Object.keys(module.default)).filter((key) => !key.endsWith(".one"));
          }
          return found;
        }"""
    )
    assert set(keys["en"]) == set(keys["ja"])


def test_colours_follow_the_system_until_one_chooses(open_page: OpenPage) -> None:
    page = open_page("jobs", color_scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.get_by_label("Colours").select_option("light")
    light = page.evaluate(colour)
    page.reload()
    expect(page.get_by_label("Colours")).to_have_value("light")

    assert page.evaluate(colour) == light != dark


def test_the_keyboard_reaches_the_content_and_every_view(open_page: OpenPage) -> None:
    page = open_page("live")
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()

    page.get_by_role("link", name="Jobs", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
    expect(page.get_by_role("navigation", name="Pages").get_by_role("link", name="Jobs")).to_have_attribute(
        "aria-current", "page"
    )
    expect(page.get_by_role("main")).to_be_focused()  # a new view begins at its head
