from __future__ import annotations

import gzip
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from cli import client as client_module
from cli import watch as watch_module
from cli.client import ApiClient, JobStatus
from cli.corpus import CONTENT_TYPES, FORMATS
from cli.jobs import _watch
from cli.watch import describe_pace, describe_seconds
from shared.intake.reading import format_of_media_type, format_of_name, known_formats
from tests.support.api import Asked, FakeApi, Reply
from tests.support.commands import Run

JOBS = "/v1/embeddings/jobs"
BUSY = Reply({"error": {"message": "storage is full", "param": None}}, 503)


def job(status: str = "completed", completed: int = 10, failed: int = 0, **others: Any) -> dict[str, Any]:
    return {
        "id": "job_1",
        "object": "embedding.job",
        "status": status,
        "model": "m",
        "created_at": 1_700_000_000,
        "counts": {"total": 10, "completed": completed, "failed": failed, "truncated": 0, "deduplicated": 0},
        "tokens": 70,
        "progress": (completed + failed) / 10,
        "texts_per_second": 5.0,
        "eta_seconds": None,
        "reason": None,
        **others,
    }


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module.time, "sleep", lambda _seconds: None)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.ndjson"
    file.write_text("".join(json.dumps({"id": str(i), "text": f"text {i}"}) + "\n" for i in range(10)))
    return file


def test_submit_streams_the_file_and_prints_the_id(ask: Run, api: FakeApi, corpus: Path) -> None:
    api.on("POST", JOBS, Reply(job("queued", 0), 202))

    result = ask("jobs", "submit", corpus, "-m", "m", "--dimensions", 64, "--priority", "low", "--metadata", "run=a=b")

    assert (result.exit_code, result.stdout) == (0, "job_1\n")
    asked = api.asked[0]
    assert asked.body == corpus.read_bytes()
    assert asked.headers["content-type"] == "application/x-ndjson"
    assert asked.headers["content-length"] == str(corpus.stat().st_size)
    assert asked.query == {"model": "m", "dimensions": "64", "priority": "low", "metadata": '{"run": "a=b"}'}


def test_submit_asks_for_vectors_to_be_used_again(ask: Run, api: FakeApi, corpus: Path) -> None:
    api.on("POST", JOBS, Reply(job("queued", 0), 202))

    ask("jobs", "submit", corpus, "--dedupe", "--cache")

    assert api.asked[0].query == {"dedupe": "true", "cache": "true"}


def test_an_upload_is_tried_again_under_the_same_key(ask: Run, api: FakeApi, corpus: Path) -> None:
    api.on("POST", JOBS, BUSY, Reply(b"x" * 100, cut_at=10), Reply(job("queued", 0), 202))

    result = ask("jobs", "submit", corpus)

    assert result.stdout == "job_1\n"
    keys = [asked.headers["idempotency-key"] for asked in api.asked]
    assert len(keys) == len(api.asked) > 1
    assert len(set(keys)) == 1
    assert {asked.body for asked in api.asked} == {corpus.read_bytes()}


def test_two_submissions_have_two_keys_unless_one_is_given(ask: Run, api: FakeApi, corpus: Path) -> None:
    api.on("POST", JOBS, Reply(job("queued", 0), 202))

    for arguments in ((), (), ("--idempotency-key", "k")):
        ask("jobs", "submit", corpus, *arguments)

    first, second, third = (asked.headers["idempotency-key"] for asked in api.asked)
    assert first != second
    assert third == "k"


def test_a_refused_upload_is_not_tried_again(ask: Run, api: FakeApi, corpus: Path) -> None:
    api.on("POST", JOBS, Reply({"error": {"message": "the model 'x' is not served here", "param": "model"}}, 404))

    result = ask("jobs", "submit", corpus, "-m", "x")

    assert (result.exit_code, result.stderr) == (1, "Error: the model 'x' is not served here\n")
    assert len(api.asked) == 1


def test_a_server_that_stays_away_is_given_up(ask: Run, api: FakeApi, corpus: Path) -> None:
    api.on("POST", JOBS, BUSY)

    result = ask("jobs", "submit", corpus)

    assert (result.exit_code, result.stderr) == (3, "Error: storage is full\n")


def test_a_packed_file_says_so(ask: Run, api: FakeApi, tmp_path: Path) -> None:
    api.on("POST", JOBS, Reply(job("queued", 0), 202))
    file = tmp_path / "corpus.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"text": "a"}\n'))

    ask("jobs", "submit", file)

    headers = api.asked[0].headers
    assert (headers["content-type"], headers["content-encoding"]) == ("application/x-ndjson", "gzip")


def test_a_json_file_is_the_whole_request(ask: Run, api: FakeApi, tmp_path: Path) -> None:
    api.on("POST", JOBS, Reply(job("queued", 0), 202))
    file = tmp_path / "request.json"
    file.write_text('{"model": "m", "input": ["a"]}')

    assert ask("jobs", "submit", file).exit_code == 0
    assert api.asked[0].headers["content-type"] == "application/json"
    refused = ask("jobs", "submit", file, "--input-type", "query")
    assert (refused.exit_code, "--input-type" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("name", "content_type", "encoding"),
    [
        ("corpus.csv", "text/csv", None),
        ("corpus.TSV.gz", "text/tab-separated-values", "gzip"),
        ("corpus.txt.zst", "text/plain", "zstd"),
        ("corpus.parquet", "application/vnd.apache.parquet", None),
    ],
)
def test_an_ending_tells_what_a_file_is(
    ask: Run, api: FakeApi, tmp_path: Path, name: str, content_type: str, encoding: str | None
) -> None:
    api.on("POST", JOBS, Reply(job("queued", 0), 202))
    (tmp_path / name).write_bytes(b"content")

    ask("jobs", "submit", tmp_path / name, "--text-column", "body", "--id-column", "url", "--on-duplicate", "keep")

    asked = api.asked[0]
    assert (asked.headers["content-type"], asked.headers.get("content-encoding")) == (content_type, encoding)
    assert asked.query == {"text_column": "body", "id_column": "url", "on_duplicate": "keep"}


def test_endings_and_formats_are_those_of_the_server() -> None:
    for ending, content_type in CONTENT_TYPES.items():
        if ending != ".json":
            name, _ = format_of_name(f"corpus{ending}")
            assert format_of_media_type(content_type) == name
    assert list(FORMATS) == known_formats()
    assert [format_of_media_type(content_type) for content_type in FORMATS.values()] == known_formats()


def test_a_format_is_said_where_the_ending_does_not_tell(ask: Run, api: FakeApi, tmp_path: Path) -> None:
    api.on("POST", JOBS, Reply(job("queued", 0), 202))
    (tmp_path / "corpus.dat.gz").write_bytes(b"content")

    assert ask("jobs", "submit", tmp_path / "corpus.dat.gz", "--format", "text").exit_code == 0
    headers = api.asked[0].headers
    assert (headers["content-type"], headers["content-encoding"]) == ("text/plain", "gzip")


def test_standard_input_is_sent_once(ask: Run, api: FakeApi) -> None:
    api.on("POST", JOBS, Reply(job("queued", 0), 202), BUSY)

    result = ask("jobs", "submit", "-", "--format", "text", stdin="one\ntwo\n")

    assert (result.exit_code, result.stdout, api.asked[0].body) == (0, "job_1\n", b"one\ntwo\n")
    assert api.asked[0].headers["content-type"] == "text/plain"
    assert ask("jobs", "submit", "-", stdin="x").exit_code == 3
    assert (len(api.asked), api.asked[1].headers["content-type"]) == (2, "application/octet-stream")


@pytest.mark.parametrize("name", ["corpus.pdf", "corpus", "corpus.gz"])
def test_a_file_of_an_unknown_kind_is_refused_before_anything_is_sent(ask: Run, api: FakeApi, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")

    result = ask("jobs", "submit", tmp_path / name)

    assert (result.exit_code, api.asked) == (2, [])
    assert ".ndjson" in result.stderr


def test_watching_ends_with_the_job(ask: Run, api: FakeApi, corpus: Path) -> None:
    api.on("POST", JOBS, Reply(job("queued", 0), 202))
    api.on("GET", f"{JOBS}/job_1", Reply(job("queued", 0)), Reply(job("in_progress", 4)), BUSY, Reply(job("completed", 9, 1)))

    result = ask("jobs", "submit", corpus, "--watch")

    assert (result.exit_code, result.stdout) == (0, "job_1\n")
    assert "job_1 in_progress 4/10 5 texts/s" in result.stderr
    assert "completed: 9 of 10 texts" in result.stderr
    assert "1 text failed; see why: umekomi jobs errors job_1" in result.stderr


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_job_that_did_not_complete_is_exit_code_1(ask: Run, api: FakeApi, status: str) -> None:
    api.on("GET", f"{JOBS}/job_1", Reply(job(status, 3, reason="the model is gone")))

    result = ask("jobs", "watch", "job_1")

    assert result.exit_code == 1
    assert "the model is gone" in result.stderr


def test_watching_a_job_that_is_not_there_ends_at_once(ask: Run, api: FakeApi) -> None:
    api.on("GET", f"{JOBS}/job_1", Reply({"error": {"message": "no such job", "param": None}}, 404))

    assert ask("jobs", "watch", "job_1").exit_code == 1


def test_ctrl_c_stops_the_watching_only_and_says_how_to_go_on(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api.on("GET", f"{JOBS}/job_1", Reply(job("in_progress", 4)))

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch_module.time, "sleep", interrupt)

    with closing(ApiClient(api.url, None)) as client, pytest.raises(SystemExit) as raised:
        _watch(client, "job_1")

    assert raised.value.code == 130
    assert "umekomi jobs watch job_1" in capsys.readouterr().err
    assert {asked.method for asked in api.asked} == {"GET"}


def test_the_list_is_read_page_by_page(ask: Run, api: FakeApi) -> None:
    def page(asked: Asked) -> Reply:
        first = int(asked.query["after"].removeprefix("job_")) + 1 if "after" in asked.query else 1
        ids = range(first, min(first + int(asked.query["limit"]), 131))
        return Reply({"data": [job() | {"id": f"job_{i}"} for i in ids], "has_more": first + len(ids) <= 130})

    api.on("GET", JOBS, page)

    result = ask("jobs", "list", "--limit", 500, "--status", "completed", "--json")

    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == [f"job_{i}" for i in range(1, 131)]
    assert {asked.query["status"] for asked in api.asked} == {"completed"}


def test_the_list_is_a_table(ask: Run, api: FakeApi) -> None:
    api.on("GET", JOBS, Reply({"data": [job()], "has_more": False}))

    lines = ask("jobs", "list").stdout.splitlines()

    assert lines[0].split() == ["job", "status", "model", "created", "texts", "pace"]
    assert lines[1].split()[:3] == ["job_1", "completed", "m"]


def test_status_shows_what_is_known(ask: Run, api: FakeApi) -> None:
    api.on("GET", f"{JOBS}/job_1", Reply(job("in_progress", 4, 1, eta_seconds=3700.0)))

    assert "4 completed, 1 failed, of 10" in ask("jobs", "status", "job_1").stdout
    assert "1:01 h" in ask("jobs", "status", "job_1").stdout
    assert json.loads(ask("jobs", "status", "job_1", "--json").stdout) == job("in_progress", 4, 1, eta_seconds=3700.0)


@pytest.mark.parametrize("action", ["cancel", "pause", "resume", "retry"])
def test_actions_are_posted(ask: Run, api: FakeApi, action: str) -> None:
    api.on("POST", f"{JOBS}/job_1/{action}", Reply(job("paused", 2)))

    assert "paused" in ask("jobs", action, "job_1").stdout


def test_delete_asks_first(ask: Run, api: FakeApi) -> None:
    api.on("DELETE", f"{JOBS}/job_1", Reply({"id": "job_1", "deleted": True}))

    assert ask("jobs", "delete", "job_1", stdin="n\n").exit_code == 1
    assert api.asked == []
    assert ask("jobs", "delete", "job_1", "--yes").stdout == "deleted job_1\n"


def test_errors_are_passed_on(ask: Run, api: FakeApi) -> None:
    api.on("GET", f"{JOBS}/job_1/errors", Reply(b'{"id":null,"index":3}\n'))

    assert ask("jobs", "errors", "job_1").stdout == '{"id":null,"index":3}\n'


# Results


def rows(first: int, last: int) -> bytes:
    return b"".join(b'{"id":"%d","index":%d,"embedding":[0.5]}\n' % (i, i) for i in range(first, last))


def serve_rows(api: FakeApi, total: int, *, is_done: bool = True) -> None:
    def answer(asked: Asked) -> Reply:
        content = rows(int(asked.query.get("after", -1)) + 1, total)
        return Reply(content, headers={"x-umekomi-complete": "true" if is_done else "false"})

    api.on("GET", f"{JOBS}/job_1/results", answer)


def fetch(ask: Run, output: Path, *more: str) -> Result:
    return ask("jobs", "results", "job_1", "-o", output, *more)


def test_results_go_to_standard_output(ask: Run, api: FakeApi) -> None:
    serve_rows(api, 3)

    assert ask("jobs", "results", "job_1").stdout.encode() == rows(0, 3)
    assert api.asked[0].query == {"format": "jsonl"}


@pytest.mark.parametrize("name", ["parquet", "npy", "npz", "arrow"])
def test_the_ending_of_the_file_names_the_format(ask: Run, api: FakeApi, tmp_path: Path, name: str) -> None:
    api.on("GET", f"{JOBS}/job_1/results", Reply(b"PAR1"))

    result = fetch(ask, tmp_path / f"vectors.{name}", "--dtype", "float16")

    assert result.exit_code == 0
    assert api.asked[0].query == {"format": name, "dtype": "float16"}
    assert [file.name for file in tmp_path.iterdir()] == [f"vectors.{name}"]


WHOLE = bytes(range(256)) * 4


def serve_bytes(api: FakeApi, *cuts: int | None, tag: str = "abc1", content: bytes = WHOLE) -> None:
    """A file with a tag; each answer breaks off after so many bytes."""
    left = list(cuts)

    def answer(asked: Asked) -> Reply:
        begin = int(asked.headers.get("range", "bytes=0-")[6:-1]) if asked.headers.get("if-range") == f'"{tag}"' else 0
        cut = left.pop(0) if left else None
        headers = {"ETag": f'"{tag}"', "x-umekomi-complete": "true"}
        if begin >= len(content):
            return Reply(b"{}", 416, headers | {"Content-Range": f"bytes */{len(content)}"})
        return Reply(content[begin:], 206 if begin else 200, headers, cut_at=cut)

    api.on("GET", f"{JOBS}/job_1/results", answer)


def test_a_broken_download_goes_on_at_the_byte_where_it_broke(ask: Run, api: FakeApi, tmp_path: Path) -> None:
    serve_bytes(api, 100, 0, 300)

    result = fetch(ask, tmp_path / "vectors.npy")

    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "vectors.npy").read_bytes() == WHOLE
    assert [asked.headers.get("range") for asked in api.asked] == [None, "bytes=100-", "bytes=100-", "bytes=400-"]
    assert [file.name for file in tmp_path.iterdir()] == ["vectors.npy"]


@pytest.mark.parametrize("there", [1, 100, len(WHOLE)])
def test_a_download_that_was_stopped_goes_on_when_told(ask: Run, api: FakeApi, tmp_path: Path, there: int) -> None:
    part = tmp_path / "vectors.npy.abc1.part"
    part.write_bytes(WHOLE[:there])
    serve_bytes(api)

    assert fetch(ask, tmp_path / "vectors.npy", "-c").exit_code == 0
    assert (tmp_path / "vectors.npy").read_bytes() == WHOLE
    assert api.asked[0].headers["range"] == f"bytes={there}-"
    assert not part.exists()


def test_a_download_that_stays_broken_keeps_its_part_and_says_so(ask: Run, api: FakeApi, tmp_path: Path) -> None:
    serve_bytes(api, 10, 0, 0, 0, 0)

    result = fetch(ask, tmp_path / "vectors.npy")

    assert (result.exit_code, "-c goes on" in result.stderr) == (3, True)
    assert (tmp_path / "vectors.npy.abc1.part").read_bytes() == WHOLE[:10]


@pytest.mark.parametrize("more", [[], ["-c"]])
def test_a_part_of_another_file_is_thrown_away(ask: Run, api: FakeApi, tmp_path: Path, more: list[str]) -> None:
    (tmp_path / "vectors.npy.abc1.part").write_bytes(b"old")
    serve_bytes(api, tag="abc1" if not more else "def2")

    assert fetch(ask, tmp_path / "vectors.npy", *more).exit_code == 0
    assert (tmp_path / "vectors.npy").read_bytes() == WHOLE
    assert [file.name for file in tmp_path.iterdir()] == ["vectors.npy"]


def test_a_broken_parquet_download_leaves_nothing(ask: Run, api: FakeApi, tmp_path: Path) -> None:
    api.on("GET", f"{JOBS}/job_1/results", Reply(b"PAR1" * 1000, cut_at=100))

    assert fetch(ask, tmp_path / "vectors.parquet").exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_a_broken_download_of_rows_is_taken_up_where_the_last_whole_row_ended(ask: Run, api: FakeApi, tmp_path: Path) -> None:
    whole = rows(0, 50)
    api.on("GET", f"{JOBS}/job_1/results", Reply(whole, cut_at=len(rows(0, 20)) + 7), lambda asked: Reply(rows(20, 50)))

    result = fetch(ask, tmp_path / "vectors.jsonl")

    assert result.exit_code == 0, result.stderr
    assert [asked.query.get("after") for asked in api.asked] == [None, "19"]
    assert (tmp_path / "vectors.jsonl").read_bytes() == whole


def test_a_download_goes_on_only_when_told(ask: Run, api: FakeApi, tmp_path: Path) -> None:
    file = tmp_path / "vectors.jsonl"
    file.write_bytes(rows(0, 4) + b'{"id":"4","ind')
    serve_rows(api, 9)

    refused = fetch(ask, file)
    assert (refused.exit_code, api.asked) == (2, [])
    assert "-c adds the rows" in refused.stderr

    assert fetch(ask, file, "-c").exit_code == 0
    assert file.read_bytes() == rows(0, 9)


def test_the_rows_of_a_job_that_runs_are_what_is_there_so_far(ask: Run, api: FakeApi, tmp_path: Path) -> None:
    file = tmp_path / "vectors.jsonl"
    serve_rows(api, 4, is_done=False)
    assert "not finished" in fetch(ask, file).stderr

    serve_rows(api, 9)
    assert fetch(ask, file, "-c").stderr == ""
    assert file.read_bytes() == rows(0, 9)


@pytest.mark.parametrize("content", ["my notes", "my notes\n", '{"id":"1"}\n', "[1]\n", "x" * 5_000_000])
def test_a_file_that_holds_something_else_is_left_alone(ask: Run, api: FakeApi, tmp_path: Path, content: str) -> None:
    file = tmp_path / "notes.jsonl"
    file.write_text(content)
    serve_rows(api, 3)

    result = fetch(ask, file, "-c")

    assert result.exit_code == 1
    assert file.read_text() == content


def test_a_file_that_cannot_be_written_is_a_sentence(ask: Run, api: FakeApi, tmp_path: Path) -> None:
    serve_rows(api, 3)

    result = fetch(ask, tmp_path / "nowhere" / "vectors.jsonl")

    assert result.exit_code == 1
    assert "cannot be written: No such file or directory" in result.stderr


# Words


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (307, "5:07 min"), (12_000, "3:20 h")])
def test_seconds_are_described(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text


def test_the_pace_is_described() -> None:
    status = JobStatus.from_wire(job("in_progress", 4, 2, texts_per_second=1234.5, eta_seconds=80.0))

    assert describe_pace(status) == "1,234 texts/s, 1:20 min left, 2 failed"
