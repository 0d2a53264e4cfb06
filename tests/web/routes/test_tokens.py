"""POST /v1/tokenize, /v1/detokenize, /decode: through the lane to an engine, in every shape that clients know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.lane import served_models
from tests.support.valkey import Valkey
from tests.web.support import embed, error_of, model, registry

MODELS = registry(
    model("m", alias="org/m"),
    model("prompted", prompts={"query": "ask this : ", "document": ""}, default_prompt_name="query", keep_prefix=True),
    model("reranker", reranking=True),
)


@pytest.fixture(scope="module")
def served(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """One for all of them: they only ask."""
    with served_models(valkey.url, tmp_path_factory.mktemp("served"), MODELS, max_inputs=8, max_request_bytes=4 * 2**20) as app:
        yield app


@pytest.fixture
def asked(served: Flask) -> FlaskClient:
    return served.test_client()


def tokenize(client: FlaskClient, **body: Any) -> Any:
    response = embed(client, body, "/v1/tokenize")
    assert response.status_code == 200, response.data
    return response.json


def test_one_text_is_answered_as_localai_and_vllm_answer(asked: FlaskClient) -> None:
    expected = {"model": "m", "count": 5, "max_model_len": 512}
    for name in ("content", "prompt", "input"):
        answer = tokenize(asked, **{name: "one two three"})
        assert len(answer.pop("tokens")) == 5
        assert answer == expected
    for path in ("/tokenize", "/v1/tokenize/"):
        assert embed(asked, {"model": "org/m", "content": "a"}, path).json["count"] == 3


def test_special_tokens_pieces_and_places_are_told_where_they_are_wanted(asked: FlaskClient) -> None:
    bare = tokenize(asked, prompt="one, two", add_special_tokens=False, return_token_strs=True, return_offsets=True)

    assert bare["token_strs"] == ["one", ",", "two"]
    assert bare["offsets"] == [[0, 3], [3, 4], [5, 8]]
    whole = tokenize(asked, prompt="one, two", return_offsets=True)
    assert whole["tokens"][1:-1] == bare["tokens"]
    assert whole["offsets"] == [None, *bare["offsets"], None]
    assert set(tokenize(asked, content="a b", count_only=True)) == {"model", "count", "max_model_len"}


def test_several_texts_have_a_list_each(asked: FlaskClient) -> None:
    answer = tokenize(asked, input=["a", "b c", ""])

    assert (answer["count"], answer["counts"]) == (9, [3, 4, 2])
    assert [len(tokens) for tokens in answer["tokens"]] == [3, 4, 2]
    assert tokenize(asked, input=["a"], count_only=True) == {"model": "m", "count": 3, "counts": [3], "max_model_len": 512}


def test_a_text_is_tokenized_whole_however_little_the_model_reads(asked: FlaskClient) -> None:
    assert tokenize(asked, content="word " * 3000, count_only=True)["count"] == 3002
    assert tokenize(asked, content="w" * 2**20, count_only=True)["count"] == 3


def test_inputs_are_answered_as_tei_answers(asked: FlaskClient) -> None:
    (tokens,) = embed(asked, {"inputs": "夕飯 😀 two"}, "/tokenize").json

    assert [token["text"] for token in tokens] == ["<begin>", "夕飯", "😀", "two", "<end>"]
    assert [(token["start"], token["stop"]) for token in tokens] == [(None, None), (0, 2), (3, 4), (5, 8), (None, None)]
    assert [token["special"] for token in tokens] == [True, False, False, False, True]
    assert [len(text) for text in tokenize(asked, inputs=["a", "b c"], add_special_tokens=False)] == [1, 2]


def test_a_count_is_what_the_same_text_costs_when_it_is_embedded(asked: FlaskClient) -> None:
    for fields in ({}, {"input_type": "document"}, {"prompt_name": "query"}, {"input_type": "search_query"}):
        for text in ("text of mine", "ask this : text of mine"):
            request = {"model": "prompted", "input": text, **fields}
            used = embed(asked, request).json["usage"]["prompt_tokens"]
            assert tokenize(asked, **request)["count"] == used
    prompted = tokenize(asked, model="prompted", input="text", return_offsets=True)
    assert prompted["offsets"] == [None, None, None, None, [0, 4], None]


def test_a_reranker_tokenizes_too(asked: FlaskClient) -> None:
    assert tokenize(asked, model="reranker", content="a b")["count"] == 4


def test_ids_become_texts_in_every_shape(asked: FlaskClient) -> None:
    ids = tokenize(asked, content="a b")["tokens"]
    text = " ".join(map(str, ids[1:-1]))
    whole = " ".join(map(str, ids))

    answer = embed(asked, {"model": "m", "tokens": ids}, "/v1/detokenize").json
    assert answer == {"model": "m", "content": text, "prompt": text}
    assert embed(asked, {"tokens": ids, "skip_special_tokens": False}, "/detokenize").json["content"] == whole
    assert embed(asked, {"tokens": [ids, []]}, "/detokenize").json["content"] == [text, ""]
    assert embed(asked, {"tokens": []}, "/detokenize").json["content"] == ""
    assert embed(asked, {"ids": ids}, "/decode").json == [text]
    assert embed(asked, {"ids": [ids, ids]}, "/decode").json == [text, text]


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/tokenize", {}, "content"),
    ("/v1/tokenize", {"messages": []}, "content"),
    ("/v1/tokenize", {"content": None}, "content"),
    ("/v1/tokenize", {"content": "a", "prompt": "b"}, "prompt"),
    ("/v1/tokenize", {"content": 1}, "content"),
    ("/v1/tokenize", {"content": {"text": "a"}}, "content"),
    ("/v1/tokenize", {"prompt": ["a", None]}, "prompt"),
    ("/v1/tokenize", {"inputs": []}, "inputs"),
    ("/v1/tokenize", {"inputs": [["a"]]}, "inputs"),
    ("/v1/tokenize", {"input": ["a"] * 9}, "input"),
    ("/v1/tokenize", {"input": "w" * (2**20 + 1)}, "input"),
    ("/v1/tokenize", {"input": [1, 2]}, "input"),
    ("/v1/tokenize", {"input": "a", "model": 1}, "model"),
    ("/v1/tokenize", {"input": "a", "model": "unheard"}, "model"),
    ("/v1/tokenize", {"input": "a", "add_special_tokens": "true"}, "add_special_tokens"),
    ("/v1/tokenize", {"input": "a", "return_token_strs": 1}, "return_token_strs"),
    ("/v1/tokenize", {"input": "a", "return_offsets": []}, "return_offsets"),
    ("/v1/tokenize", {"input": "a", "count_only": 0.5}, "count_only"),
    ("/v1/tokenize", {"input": "a", "input_type": "no"}, "input_type"),
    ("/v1/tokenize", {"input": "a", "prompt_name": "no"}, "prompt_name"),
    ("/v1/tokenize", {"input": "a", "prompt_name": "query", "input_type": "query"}, "prompt_name"),
    ("/v1/detokenize", {}, "tokens"),
    ("/v1/detokenize", {"tokens": "1"}, "tokens"),
    ("/v1/detokenize", {"tokens": [1, "2"]}, "tokens"),
    ("/v1/detokenize", {"tokens": [True]}, "tokens"),
    ("/v1/detokenize", {"tokens": [1.0]}, "tokens"),
    ("/v1/detokenize", {"tokens": [-1]}, "tokens"),
    ("/v1/detokenize", {"tokens": [2**31]}, "tokens"),
    ("/v1/detokenize", {"tokens": [2**24]}, "tokens"),
    ("/v1/detokenize", {"tokens": [[1], 2]}, "tokens"),
    ("/v1/detokenize", {"tokens": [[[1]]]}, "tokens"),
    ("/v1/detokenize", {"tokens": [[1]] * 9}, "tokens"),
    ("/v1/detokenize", {"tokens": [1], "ids": [1]}, "ids"),
    ("/v1/detokenize", {"tokens": [1], "skip_special_tokens": "no"}, "skip_special_tokens"),
    ("/decode", {"ids": {}}, "ids"),
]


def test_what_is_wrong_is_refused_by_name(asked: FlaskClient) -> None:
    for path, body, param in WRONG:
        response = embed(asked, body, path)
        assert response.status_code == (404 if param == "model" and body["model"] == "unheard" else 400), (body, response.data)
        assert error_of(response)["param"] == param, body


def test_so_many_tokens_that_nobody_could_read_them_are_refused(asked: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker import spelling

    monkeypatch.setitem(spelling.MAX_TOKENS, "all", 100)
    monkeypatch.setitem(spelling.MAX_TOKENS, "ids", 100)

    for body in ({"input": ["a " * 60] * 2}, {"inputs": "a " * 101}):
        response = embed(asked, body, "/v1/tokenize")
        assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")
    assert tokenize(asked, input=["a " * 60] * 2, count_only=True)["count"] == 124
