from __future__ import annotations

import json

from cli.embed import TEXTS_A_REQUEST
from tests.support.api import Asked, FakeApi, Reply
from tests.support.commands import Run


def serve_lengths(api: FakeApi, **usage: int) -> None:
    """A vector of one number, the text's length; the rows in a confusing order."""

    def answer(asked: Asked) -> Reply:
        rows = [{"index": i, "embedding": [float(len(text))]} for i, text in enumerate(asked.json["input"])]
        return Reply({"data": rows[::-1], "usage": usage})

    api.on("POST", "/v1/embeddings", answer)


def test_a_line_for_each_text_in_order(ask: Run, api: FakeApi) -> None:
    serve_lengths(api)

    result = ask("embed", "a", "埋め込み", "-m", "m", "--input-type", "query")

    assert result.stdout == (
        '{"index": 0, "text": "a", "embedding": [1.0]}\n{"index": 1, "text": "埋め込み", "embedding": [4.0]}\n'
    )
    assert api.asked[0].json == {
        "input": ["a", "埋め込み"],
        "encoding_format": "float",
        "model": "m",
        "input_type": "query",
    }


def test_standard_input_is_a_text_a_line_in_pieces(ask: Run, api: FakeApi) -> None:
    serve_lengths(api)
    texts = ["x" * (i % 7 + 1) for i in range(TEXTS_A_REQUEST + 10)]

    result = ask("embed", "-", stdin="\n\n".join(texts) + "\r\n")

    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == texts
    assert [row["index"] for row in rows] == list(range(len(texts)))
    assert [len(asked.json["input"]) for asked in api.asked] == [TEXTS_A_REQUEST, 10]


def test_json_is_one_list_of_vectors(ask: Run, api: FakeApi) -> None:
    serve_lengths(api)

    assert json.loads(ask("embed", "--format", "json", "a", "bb").stdout) == [[1.0], [2.0]]


def test_cut_texts_are_told(ask: Run, api: FakeApi) -> None:
    serve_lengths(api, truncated=1)

    result = ask("embed", "long")

    assert result.exit_code == 0
    assert "1 of the texts were too long" in result.stderr


def test_no_text_is_a_usage_error(ask: Run) -> None:
    assert ask("embed").exit_code == 2
