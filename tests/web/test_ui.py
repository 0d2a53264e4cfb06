"""The dashboard's files: who gets the page, what a browser may keep, and what the page may load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

import web.ui
from tests.web.conftest import MakeApp
from web.routes.about import ROUTES

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
STATIC = Path(web.ui.__file__).with_name("static")
FILES = sorted(file.relative_to(STATIC).as_posix() for file in STATIC.rglob("*") if file.is_file())


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "text/html;q=0.5, application/json", "text/*"])
def test_a_program_that_goes_to_the_root_gets_the_routes(client: FlaskClient, accept: str | None) -> None:
    response = client.get("/", headers={} if accept is None else {"Accept": accept})
    assert response.get_json()["routes"] == ROUTES
    assert "Accept" in response.headers["Vary"]


def test_a_browser_gets_the_page_without_a_key_and_its_data_only_with_one(make_app: MakeApp) -> None:
    client = make_app(api_keys="sesame").test_client()
    page = client.get("/", headers={"Accept": BROWSER})
    assert (page.status_code, page.mimetype) == (200, "text/html")
    assert "Accept" in page.headers["Vary"]
    assert client.get("/ui/js/app.js").status_code == 200
    assert client.get("/v1/overview").status_code == 401
    assert client.get("/v1/overview/events").status_code == 401
    assert client.get("/").status_code == 401


def test_it_can_be_switched_off(make_app: MakeApp) -> None:
    client = make_app(disable_webui=True).test_client()
    assert client.get("/", headers={"Accept": BROWSER}).mimetype == "application/json"
    assert client.get("/ui/js/app.js").status_code == 404
    assert client.get("/v1/overview").status_code == 200


def test_nothing_but_its_own_files_may_run_in_it(client: FlaskClient) -> None:
    page = client.get("/", headers={"Accept": BROWSER})
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "://" not in page.text
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style", page.text)


def test_every_file_is_served_and_kept_until_it_changes(client: FlaskClient) -> None:
    for name in FILES:
        first = client.get(f"/ui/{name}")
        assert (first.status_code, first.data) == (200, (STATIC / name).read_bytes()), name
        assert first.headers["Cache-Control"] == "no-cache"
        assert first.headers["X-Content-Type-Options"] == "nosniff"
        assert client.get(f"/ui/{name}", headers={"If-None-Match": first.headers["ETag"]}).status_code == 304


def test_nothing_else_of_the_machine_is(client: FlaskClient) -> None:
    for name in (
        "",
        "nothing.js",
        "../__init__.py",
        "js/../../__init__.py",
        "%2e%2e/__init__.py",
        "/etc/passwd",
        "js",
        "JS/app.js",
    ):
        assert client.get(f"/ui/{name}").status_code == 404, name


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_no_script_makes_markup_of_text_or_reaches_another_server(name: str) -> None:
    script = (STATIC / name).read_text(encoding="utf-8")
    code = re.sub(r"^\s*(//|\*|/\*).*$", "", script, flags=re.MULTILINE)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser", code)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", code)
