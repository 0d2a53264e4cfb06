"""The submit view: what a file is seen to hold, what is sent, and what is said when it does not arrive."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
from base64 import b64encode
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from playwright.sync_api import Page, Route, expect

from tests.support.waiting import wait_until
from tests.ui.axe import grave_issues
from tests.ui.conftest import OpenPage

CSV = 'url,title,body\nhttp://x/1,One,"The river, slowly,\nflows."\nhttp://x/2,Two,"A ""boat""."\n'
SUBMIT = re.compile(r"/v1/embeddings/jobs\?")
MARKUP = "<img src=x onerror=window.pwned=1>"
BIG_BYTES = 300 * 2**20


def choose(page: Page, name: str, content: bytes | str) -> None:
    """A file of this content, and its preview is there."""
    content = content.encode() if isinstance(content, str) else content
    page.get_by_label("File:").set_input_files({"name": name, "mimeType": "", "buffer": content})
    expect(page.locator("form.submit")).to_contain_text(name)


def send(page: Page) -> None:
    page.get_by_role("button", name="Submit the job").click()


def job_of(page: Page, api: httpx.Client) -> dict[str, Any]:
    """The job whose page the browser went to."""
    page.wait_for_url(re.compile("#/job/job_"))
    answer = api.get(f"/v1/embeddings/jobs/{page.url.rpartition('/')[2]}").json()
    assert isinstance(answer, dict)
    return answer


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


# Of each file: its head, then rows.
PREVIEWS: dict[str, tuple[str, str | bytes, list[list[str]]]] = {
    "quotes": (
        "a.csv",
        CSV,
        [["url", "title", "body"], ["http://x/1", "One", "The river, slowly,\nflows."], ["http://x/2", "Two", 'A "boat".']],
    ),
    "semicolons": ("a.csv", "id;text\r\n1;a;b\r\n2;c", [["id", "text"], ["1", "a", "b"], ["2", "c"]]),
    "tabs": ("a.tsv", "id\ttext\n1\ta, b\n", [["id", "text"], ["1", "a, b"]]),
    "a mark of its encoding": ("a.csv", "\ufefftext\none\n", [["text"], ["one"]]),
    "gzip": ("a.csv.gz", gzip.compress(b"text\none\n"), [["text"], ["one"]]),
    "objects": ("a.ndjson", '\n{"id": 7, "text": "one"}\n{bad\n', [["id", "text"], ["7", "one"], ["", "{bad"]]),
    "lines": ("a.txt", "one\n\n two\r\n", [["text"], ["one"], [" two"]]),
    "no ending": ("a", '{"text": "told by its first byte"}\n', [["text"], ["told by its first byte"]]),
    "columns": (
        "a.parquet",
        parquet(name=["x"], vector=[[1.0]], more=[{"a": 1, "b": [2]}], last=[True]),
        [["name", "vector", "more", "last"]],
    ),
    "many columns": ("a.parquet", parquet(**{f"c{n}": [n] for n in range(40)}), [[f"c{n}" for n in range(40)]]),
}
WHY = {
    "packed": ("a.csv.zst", zstandard.compress(CSV.encode())),
    "damaged": ("a.parquet", b"PAR1 and then nothing"),
    "parquet": ("a.parquet", parquet(text=["x"])),
    "unknown": ("a.bin", b"\0\1"),
}
_LOOK = """async files => {
    const { preview } = await import(new URL("ui/js/preview/preview.js", document.baseURI));
    const bytes = (content) => Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
    const look = async ([key, name, content]) => [key, await preview(new File([bytes(content)], name))];
    return Object.fromEntries(await Promise.all(files.map(look)));
}"""


def test_the_beginning_of_a_file_tells_what_the_server_will_read(open_page: OpenPage) -> None:
    page = open_page("submit")
    files = {key: given[:2] for key, given in PREVIEWS.items()} | WHY
    packed = gzip.compress(b"text\n" + os.urandom(600_000).hex().encode())
    files |= {"large": ("a.csv.gz", packed), "broken": ("a.csv.gz", packed[:5000]), "empty": ("a.csv", b"")}
    encoded = {key: b64encode(each.encode() if isinstance(each, str) else each).decode() for key, (_, each) in files.items()}

    found = page.evaluate(_LOOK, [[key, name, encoded[key]] for key, (name, _) in files.items()])

    for key, (_, _, expected) in PREVIEWS.items():
        assert [found[key]["columns"], *found[key]["rows"]] == expected, key
    assert {key: found[key]["why"] for key in WHY} == {key: key for key in WHY}
    # A row that the beginning cuts off is none, and a packed file that ends in the middle is told.
    assert (found["large"]["columns"], found["large"]["rows"], found["large"]["why"]) == (["text"], [], None)
    assert found["broken"]["why"] == "damaged"
    assert found["empty"]["isEmpty"]


def test_what_is_chosen_is_what_the_job_has(open_page: OpenPage, api: httpx.Client) -> None:
    page = open_page("submit")
    choose(page, "letters.csv", CSV)
    expect(page.get_by_label("Column of the texts")).to_have_value("body")  # guessed from its name
    page.get_by_label("Column of the ids").select_option("url")
    page.get_by_role("checkbox", name="url").uncheck()
    page.get_by_label("Embedded as").select_option("document")
    page.get_by_label("Dimensions").fill("4")
    page.get_by_label("Priority").select_option("high")
    page.get_by_label("Embed equal texts once").check()
    page.get_by_label("Use vectors made before").check()

    send(page)

    job = job_of(page, api)
    assert job["metadata"] == {"file": "letters.csv", "text_column": "body"}
    assert (job["model"], job["priority"], job["dedupe"], job["cache"]) == ("quick", "high", True, True)
    assert job["parameters"] == {"dimensions": 4, "input_type": "document"}
    expect(page.locator(".tag.good")).to_contain_text("completed")
    rows = api.get(f"/v1/embeddings/jobs/{job['id']}/results").text.splitlines()
    found = [(row["id"], row["metadata"]) for row in map(json.loads, rows)]
    assert found == [
        ("http://x/1", {"title": "One", "body": "The river, slowly,\nflows."}),
        ("http://x/2", {"title": "Two", "body": 'A "boat".'}),
    ]


def test_pasted_texts_come_back_with_their_vectors(open_page: OpenPage, api: httpx.Client) -> None:
    page = open_page("submit")
    page.get_by_label("Pasted here").check()
    page.get_by_label("Texts, one a line").fill('a "river"\n\n小舟')

    send(page)

    job = job_of(page, api)
    expect(page.locator(".tag.good")).to_contain_text("completed")
    results = api.get(f"/v1/embeddings/jobs/{job['id']}/results").text
    assert r'"metadata":{"text":"a \"river\""}' in results
    assert '"metadata":{"text":"小舟"}' in results


def test_a_parquet_file_that_is_dropped_is_read_by_its_columns(open_page: OpenPage, api: httpx.Client) -> None:
    page = open_page("submit")
    expect(page.locator("#model option")).not_to_have_count(0)
    content = list(parquet(number=[1, 2], content=["a", "b"]))

    page.evaluate(
        """content => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(content)], "dropped.parquet"));
            const drop = new DragEvent("drop", { dataTransfer: transfer, cancelable: true, bubbles: true });
            document.querySelector(".drop").dispatchEvent(drop);
        }""",
        content,
    )
    expect(page.get_by_label("Column of the texts")).to_have_value("content")
    expect(page.locator("table.preview caption")).to_contain_text("2 rows")
    assert page.get_by_label("File:").evaluate("input => input.files[0].name") == "dropped.parquet"
    send(page)

    assert job_of(page, api)["counts"]["total"] == 2


def test_the_servers_own_message_stands_beside_the_field_it_names(open_page: OpenPage) -> None:
    page = open_page("submit")
    choose(page, "a.csv.zst", zstandard.compress(CSV.encode()))

    def refused(label: str, value: str, said: str) -> None:
        field = page.get_by_label(label)
        field.fill(value)
        send(page)
        expect(field).to_have_accessible_description(re.compile(said))
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_be_focused()

    refused("Dimensions", "9999", "dimensions: the model has 8")
    refused("Dimensions", "many", "dimensions: must be a whole number")
    page.get_by_label("Dimensions").fill("")
    refused("Column of the texts", "bodies", "there is no column 'bodies'")

    choose(page, *WHY["damaged"])
    send(page)
    expect(page.get_by_label("File:")).to_have_accessible_description(re.compile("the input is not Parquet, or damaged"))
    expect(page.get_by_label("File:")).to_be_focused()


def test_an_answer_that_was_lost_is_asked_for_again_and_makes_one_job(open_page: OpenPage, api: httpx.Client) -> None:
    page = open_page("submit")
    keys: list[str | None] = []
    queries: list[dict[str, list[str]]] = []
    accepted: list[str] = []

    def lose_the_first(route: Route) -> None:
        keys.append(route.request.headers.get("idempotency-key"))
        queries.append(parse_qs(urlsplit(route.request.url).query))
        if len(keys) == 1:
            accepted.append(route.fetch().json()["id"])
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route(SUBMIT, lose_the_first)
    choose(page, "a.txt", "one\n")
    send(page)
    expect(page.get_by_text("It did not arrive")).to_be_visible()
    expect(page.get_by_role("button", name="Submit the job")).to_be_disabled()

    page.get_by_role("button", name="Try again").click()

    assert job_of(page, api)["id"] == accepted[0]
    assert keys[0]
    assert keys == [keys[0]] * 2
    # What the server does by itself is left to it.
    told = {"model": ["quick"], "priority": ["normal"], "format": ["text"], "metadata": ['{"file":"a.txt"}']}
    assert queries == [told, told]


def test_an_upload_can_be_cancelled_and_goes_on_while_another_view_is_looked_at(open_page: OpenPage) -> None:
    page = open_page("submit")
    held: list[Route] = []
    page.route(SUBMIT, lambda route: held.append(route))
    choose(page, "a.csv", CSV)
    send(page)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", name="Sending")).to_have_count(0)
    held.clear()
    send(page)
    expect(page.get_by_role("heading", name="Sending a.csv")).to_be_visible()
    wait_until(lambda: page.evaluate("1") and held)

    page.get_by_role("link", name="Playground").click()
    expect(page.get_by_role("heading", name="Playground")).to_be_visible()
    held[0].continue_()

    expect(page.get_by_text(re.compile(r"a\.csv was accepted as job_"))).to_be_visible()


def test_markup_in_names_headers_and_cells_is_text_that_everybody_can_read(open_page: OpenPage) -> None:
    page = open_page("submit", viewport={"width": 360, "height": 740})
    page.get_by_text("More", exact=True).click()

    choose(page, f"{MARKUP}.csv", f"text,{MARKUP}\n{MARKUP},{MARKUP}\n")

    expect(page.locator("table.preview td").first).to_have_text(MARKUP)
    assert page.locator("#main img").count() == 0
    assert page.evaluate("window.pwned") is None
    assert grave_issues(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.get_by_role("combobox", name="Language").select_option("ja")
    expect(page.get_by_role("heading", name="コーパスの投入")).to_be_visible()
    expect(page.locator("table.preview")).to_be_visible()  # the file is still chosen
    assert not re.search(r"(submit|fields)\.[a-z_]+", page.locator("#main").inner_text())


def test_a_large_file_never_lies_in_the_browsers_memory(open_page: OpenPage, api: httpx.Client, tmp_path: Path) -> None:
    large = tmp_path / "large.csv"
    with large.open("wb") as file:
        file.write(b"text,id\nhello,1\n")
        file.truncate(BIG_BYTES)  # sparse: no disk is filled
    page = open_page("submit")
    expect(page.locator("#model option")).not_to_have_count(0)
    # Before the first resident page of it is sent.
    before = _resident_bytes()
    page.get_by_label("File:").set_input_files(large)
    expect(page.locator("table.preview")).to_be_visible()

    send(page)

    most = 0
    while "#/job/" not in page.url:
        page.wait_for_timeout(50)
        most = max(most, _resident_bytes())
        assert not page.locator("form .error:not(:empty)").count()
    assert most - before < BIG_BYTES / 2
    assert job_of(page, api)["counts"]["total"] == 2


def _resident_bytes() -> int:
    """Of the browser: of everything below this process that is called so."""
    children: dict[int, list[int]] = defaultdict(list)
    sizes: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = re.match(r"\d+ \((.*)\) . (.*)", stat.read_text()).groups()  # type: ignore[union-attr]
        except (OSError, AttributeError):
            continue
        pid = int(stat.parent.name)
        children[int(fields.split()[0])].append(pid)
        sizes[pid] = int(fields.split()[20]) * os.sysconf("SC_PAGE_SIZE") if name.startswith("chrom") else 0
    found, below = 0, [os.getpid()]
    while below:
        pid = below.pop()
        found += sizes.get(pid, 0)
        below += children[pid]
    return found


def test_rerankers_are_not_offered(open_page: OpenPage) -> None:
    page = open_page("live")
    models = [{"id": "embedder", "kind": "embed", "state": "ready"}, {"id": "judge", "kind": "rerank", "state": "ready"}]
    page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": models}))

    page.reload()
    for view in ("submit", "playground"):
        page.goto(f"{page.url.partition('#')[0]}#/{view}")

        expect(page.locator("#model option")).to_have_text(["embedder"])
