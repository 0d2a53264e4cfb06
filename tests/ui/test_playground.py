"""The playground: what is seen of texts and of a job's vectors is what the numbers say; and the way from a CSV to an answer."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
from playwright.sync_api import Page, expect

from tests.ui.axe import grave_issues
from tests.ui.conftest import KEY, OpenPage, submit
from tests.ui.test_submit import MARKUP, choose, send

TEXTS = ["a river", "a stream", 'it\'s "late" $HOME', "小舟"]


def embed(page: Page, texts: list[str], label: str = "Texts, one a line") -> None:
    expect(page.locator("#model option")).not_to_have_count(0)
    page.get_by_label(label).fill("\n".join(texts))
    page.get_by_role("button", name="Embed", exact=True).click()


def ask(page: Page, question: str) -> list[str]:
    """The neighbours, the nearest first."""
    page.get_by_role("textbox", name="Question").fill(question)
    page.get_by_role("button", name="Find").click()
    expect(page.locator(".neighbours li").first).to_be_visible()
    return page.locator(".neighbours li").all_inner_texts()


def unit_vectors(api: httpx.Client, texts: list[str]) -> np.ndarray:
    answer = api.post("/v1/embeddings", json={"model": "quick", "input": texts}).json()
    vectors = np.array([each["embedding"] for each in answer["data"]])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_from_a_csv_to_the_answer_of_a_question_in_the_page_alone(open_page: OpenPage, tmp_path: Path) -> None:
    """What somebody does who has never seen the project: embed, watch, download, ask."""
    page = open_page("live", viewport={"width": 1100, "height": 900})
    page.get_by_role("link", name="Submit", exact=True).click()
    choose(page, "letters.csv", "id,text\n" + "".join(f"l{n},letter number {n}\n" for n in range(300)))
    send(page)
    expect(page.locator(".tag.good")).to_contain_text("completed")
    page.evaluate("delete window.showSaveFilePicker")  # it opens a window that no test can answer
    with page.expect_download() as download:
        page.get_by_role("button", name="Download Parquet").click()
    download.value.save_as(tmp_path / "vectors.parquet")
    assert pq.read_table(tmp_path / "vectors.parquet").num_rows == 300

    page.get_by_role("link", name="Ask it a question").click()
    expect(page.get_by_label("Job", exact=True).locator("option:checked")).to_contain_text("letters.csv · 300 rows")
    expect(page.get_by_role("textbox", name="Question")).to_be_focused()
    found = ask(page, "letter number 217")

    assert len(found) == 10
    expect(page.locator(".neighbours li").first).to_contain_text("1.000")
    expect(page.locator(".neighbours li").first).to_contain_text("letter number 217")
    expect(page.locator(".neighbours li").first).to_contain_text("l217")
    point = page.locator(".map .point").nth(3)
    point.focus()
    expect(point).to_have_accessible_name("l3")
    expect(page.locator(".readout")).to_have_text("l3 · letter number 3")
    assert grave_issues(page) == []


def test_the_heatmap_says_the_cosines_to_eyes_keys_and_screen_readers(open_page: OpenPage, api: httpx.Client) -> None:
    page = open_page("playground")
    embed(page, TEXTS)
    vectors = unit_vectors(api, TEXTS)

    grid = page.get_by_role("grid", name=re.compile("Cosine"))
    expect(grid.get_by_role("gridcell")).to_have_count(17)  # one is the corner
    shown = [float(text) for text in grid.locator(".cell").all_inner_texts()]
    assert np.allclose(np.array(shown).reshape(4, 4), vectors @ vectors.T, atol=0.0051)

    grid.locator(".cell").first.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    expect(grid.locator(".cell").nth(9)).to_be_focused()
    expect(page.locator(".readout").first).to_contain_text(f"{TEXTS[2]} ↔ {TEXTS[1]}")
    grid.locator(".cell").nth(3).hover()
    expect(page.locator(".readout").first).to_contain_text(f"{TEXTS[0]} ↔ {TEXTS[3]}")
    # The map: by keys from point to point, and nearer.
    page.locator(".map .point").first.focus()
    page.keyboard.press("+")
    assert page.locator("svg.map").evaluate("drawing => drawing.viewBox.baseVal.width") == 400
    page.get_by_role("button", name="Show all").click()
    assert page.locator("svg.map").evaluate("drawing => drawing.viewBox.baseVal.width") == 640
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert grave_issues(page) == []
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_two_columns_are_compared_each_with_each(open_page: OpenPage, api: httpx.Client) -> None:
    page = open_page("playground")
    page.get_by_label("Queries and documents").check()
    page.get_by_label("Queries, one a line").fill("late\nlost")
    embed(page, TEXTS, "Documents, one a line")

    expect(page.locator(".heatmap .cell")).to_have_count(8)
    shown = np.array([float(text) for text in page.locator(".heatmap .cell").all_inner_texts()]).reshape(2, 4)
    assert np.allclose(shown, unit_vectors(api, ["late", "lost"]) @ unit_vectors(api, TEXTS).T, atol=0.0051)
    assert "1.000" in ask(page, "a stream")[0]
    assert page.locator(".map .point.query").count() == 2
    code = page.get_by_role("region", name="Python").inner_text()
    assert 'extra_body={"input_type": "query"}' in code


def test_the_lines_do_what_the_page_does_and_never_hold_the_key(
    open_page: OpenPage, keyed_url: str, api: httpx.Client, tmp_path: Path
) -> None:
    page = open_page("playground", url=keyed_url, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("API key", exact=True).fill(KEY)
    page.get_by_role("button", name="Go on").click()
    embed(page, TEXTS)

    page.get_by_role("button", name="Copy: curl").click()
    expect(page.get_by_role("button", name="Copy: curl")).to_have_text("Copied")
    curl = page.evaluate("navigator.clipboard.readText()")
    python = page.get_by_role("region", name="Python").inner_text()

    assert KEY not in page.content()
    environment = dict(os.environ) | {"UMEKOMI_API_KEY": KEY}
    told = subprocess.run(["bash", "-c", curl], env=environment, capture_output=True, timeout=60, check=True).stdout
    assert [len(each["embedding"]) for each in json.loads(told)["data"]] == [8] * len(TEXTS)
    printed = subprocess.run(
        [sys.executable, "-c", python], env=environment, capture_output=True, timeout=60, check=True, text=True
    )
    vectors = unit_vectors(api, TEXTS)
    matrix = np.array([float(number) for number in re.findall(r"-?\d+\.?\d*", printed.stdout)]).reshape(4, 4)
    assert np.allclose(matrix, vectors @ vectors.T, atol=0.002)


def test_markup_in_ids_metadata_and_texts_is_text(open_page: OpenPage, api: httpx.Client) -> None:
    line = json.dumps({"id": MARKUP, "text": "a", "metadata": {MARKUP: MARKUP, "text": MARKUP}})
    job = submit(api, line + "\n", model=MARKUP)
    page = open_page(f"job/{job}")
    expect(page.locator(".tag.good")).to_contain_text("completed")

    page.goto(f"{page.url.partition('#')[0]}#/playground?job={job}")  # a link loads the vectors by itself
    ask(page, "a")

    expect(page.locator(".neighbours .pair")).to_have_text(f"{MARKUP}: {MARKUP}")
    page.locator(".map .point").focus()
    expect(page.locator(".readout")).to_contain_text(MARKUP)
    expect(page.locator("pre code").last).to_contain_text(json.dumps(MARKUP))
    assert page.locator("#main img").count() == 0
    assert page.evaluate("window.pwned") is None


def test_what_is_too_much_or_wrong_is_said_where_it_is(open_page: OpenPage) -> None:
    page = open_page("playground")
    embed(page, [f"text {number}" for number in range(201)])
    expect(page.get_by_label("Texts, one a line")).to_have_accessible_description(re.compile("201 texts are more than the 200"))

    embed(page, [f"text {number}" for number in range(60)])
    expect(page.get_by_text("Only the first 40 rows and columns are shown")).to_be_visible()
    expect(page.get_by_text("Only the first 20 texts are written here")).to_be_visible()

    page.get_by_label("Dimensions").fill("9999")
    embed(page, TEXTS)
    expect(page.get_by_label("Dimensions")).to_have_accessible_description(re.compile("must be from 1 to 8"))
    expect(page.locator(".heatmap")).to_have_count(0)  # it was of something else


def test_the_map_and_the_half_precision_are_numpys(open_page: OpenPage) -> None:
    page = open_page("playground")
    rows = np.random.default_rng(5).normal(size=(60, 12)) * np.linspace(3, 0.3, 12)
    halves = rows.astype(np.float16)
    halves[7, 0] = np.nan
    archive = io.BytesIO()
    np.savez(archive, vectors=halves, ids=np.array(["a", "小舟𠮷"] * 30), index=np.arange(60))

    read, projected = page.evaluate(
        """async content => {
            const load = (name) => import(new URL(`ui/js/math/${name}.js`, document.baseURI));
            const [arrays, vectors] = await Promise.all([load("arrays"), load("vectors")]);
            const found = arrays.readNpz(Uint8Array.from(atob(content), (each) => each.charCodeAt(0)).buffer);
            const floats = arrays.toFloats(found.vectors);
            const ids = arrays.toStrings(found.ids);
            floats[7 * 12] = 0;
            const { points, shares } = vectors.project(floats, 12);
            return [{ ids, floats: [...floats], index: arrays.toIntegers(found.index) }, { points: [...points], shares }];
        }""",
        b64encode(archive.getvalue()).decode(),
    )

    halves[7, 0] = 0
    assert (read["ids"][:2], read["index"]) == (["a", "小舟𠮷"], list(range(60)))
    assert np.array_equal(np.array(read["floats"]).reshape(60, 12), halves.astype(np.float64))
    centred = halves.astype(np.float64) - halves.astype(np.float64).mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    points = np.array(projected["points"]).reshape(60, 2)
    assert np.allclose(np.abs(points), np.abs(centred @ axes[:2].T), atol=0.05)
    assert np.allclose(projected["shares"], (sizes**2 / (sizes**2).sum())[:2], atol=1e-4)
