"""POST /v1/rerank: through the lane to an engine, in Jina's, Cohere's, LocalAI's and TEI's shape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.lane import served_models
from tests.support.valkey import Valkey
from tests.web.support import embed, error_of, model, registry

MODELS = registry(model("reranker", reranking=True, alias="org/reranker"), model("m"))
DOCUMENTS = ["a river", "pandas eat bamboo", "pandas", ""]


@pytest.fixture(scope="module")
def served(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """One for all of them: they only ask."""
    with served_models(valkey.url, tmp_path_factory.mktemp("served"), MODELS, max_inputs=8, max_text_bytes=4096) as app:
        yield app


@pytest.fixture
def asked(served: Flask) -> FlaskClient:
    return served.test_client()


def rerank(client: FlaskClient, **fields: Any) -> Any:
    response = embed(client, {"query": "what do pandas eat", "documents": DOCUMENTS} | fields, "/v1/rerank")
    assert response.status_code == 200, response.data
    return response.json


def test_documents_come_best_first_with_their_place_and_score(asked: FlaskClient) -> None:
    answer = rerank(asked, model="reranker")

    assert answer["model"] == "reranker"
    assert answer["id"].startswith("rerank-")
    assert [result["index"] for result in answer["results"]] == [1, 2, 3, 0]
    assert [result["document"] for result in answer["results"]] == [{"text": DOCUMENTS[index]} for index in (1, 2, 3, 0)]
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1 / (1 + math.exp(-1.97)), abs=1e-6)
    # The query's four words and three special ones, with each document.
    assert answer["usage"] == {"total_tokens": 34, "prompt_tokens": 34}


@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/rerank/", "/rerank", "/v2/rerank"])
def test_every_spelling_of_the_route_answers(asked: FlaskClient, path: str) -> None:
    response = embed(asked, {"model": "org/reranker", "query": "a", "documents": ["a", "b"]}, path)
    assert [result["index"] for result in response.json["results"]] == [0, 1]


def test_what_is_wanted_of_the_results_is_given(asked: FlaskClient) -> None:
    assert len(rerank(asked, top_n=2)["results"]) == 2
    assert len(rerank(asked, top_n=2**31 - 1)["results"]) == 4
    assert "document" not in rerank(asked, return_documents=False)["results"][0]
    assert rerank(asked, raw_scores=True)["results"][0]["relevance_score"] == pytest.approx(1.97, abs=1e-6)
    mixed = rerank(asked, documents=[{"text": "pandas", "title": "x"}, "bamboo"])
    assert mixed["results"][0]["document"] == {"text": "pandas"}


def test_a_saturated_score_does_not_lose_the_order(asked: FlaskClient) -> None:
    documents = ["pandas " * 30, "pandas " * 40]
    results = rerank(asked, documents=documents)["results"]
    assert results[0]["relevance_score"] == results[1]["relevance_score"] == 1.0
    assert [result["index"] for result in results] == [1, 0]


def test_texts_are_answered_as_tei_answers(asked: FlaskClient) -> None:
    body = {"query": "what do pandas eat", "texts": DOCUMENTS, "raw_scores": False, "truncate": True}
    ranks = embed(asked, body, "/rerank").json
    assert [rank["index"] for rank in ranks] == [1, 2, 3, 0]
    assert all(set(rank) == {"index", "score"} for rank in ranks)
    with_text = embed(asked, body | {"return_text": True, "raw_scores": True}, "/rerank").json
    assert (with_text[0]["text"], with_text[0]["score"]) == (DOCUMENTS[1], pytest.approx(1.97, abs=1e-6))


def test_without_a_model_the_first_reranker_answers_and_embeddings_come_from_no_reranker(asked: FlaskClient) -> None:
    assert rerank(asked)["model"] == "reranker"
    assert embed(asked, {"input": "a"}).json["model"] == "m"


def test_a_pair_that_is_too_long_is_cut_and_named_or_refused(asked: FlaskClient) -> None:
    documents = ["short", "word " * 600]
    response = embed(asked, {"query": "a", "documents": documents}, "/v1/rerank")
    assert response.headers["x-truncated-inputs"] == "1"
    for truncate in ("error", False):
        refused = embed(asked, {"query": "a", "documents": documents, "truncate": truncate}, "/v1/rerank")
        assert (refused.status_code, error_of(refused)["code"]) == (400, "context_length_exceeded")


def test_a_model_that_is_none_for_it_is_refused_by_name(asked: FlaskClient) -> None:
    wrong = [
        ("/v1/rerank", {"model": "m", "query": "a", "documents": ["b"]}),
        ("/v1/embeddings", {"model": "reranker", "input": "a"}),
        ("/v1/embeddings", {"model": "reranker", "input": ["a"], "dimensions": 1}),
        ("/embed", {"model": "reranker", "inputs": "a"}),
        ("/v1/embeddings/jobs", {"model": "reranker", "input": ["a"]}),
    ]
    for path, body in wrong:
        response = embed(asked, body, path)
        assert response.status_code == 400, response.data
        assert error_of(response)["param"] == "model"
    nobody = embed(asked, {"model": "unheard", "query": "a", "documents": ["b"]}, "/v1/rerank")
    assert (nobody.status_code, error_of(nobody)["code"]) == (404, "model_not_found")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"query": None}, "query"),
    ({"query": ""}, "query"),
    ({"query": 1}, "query"),
    ({"query": ["a"]}, "query"),
    ({"query": "w" * 4097}, "query"),
    ({"documents": None}, "documents"),
    ({"documents": []}, "documents"),
    ({"documents": "a"}, "documents"),
    ({"documents": {}}, "documents"),
    ({"documents": [1]}, "documents"),
    ({"documents": [None]}, "documents"),
    ({"documents": [{"body": "a"}]}, "documents"),
    ({"documents": [{"text": 1}]}, "documents"),
    ({"documents": [["a"]]}, "documents"),
    ({"documents": ["a"] * 9}, "documents"),
    ({"documents": ["w" * 4097]}, "documents"),
    ({"texts": ["a"]}, "texts"),
    ({"documents": None, "texts": "a"}, "texts"),
    ({"documents": None, "texts": []}, "texts"),
    ({"top_n": 0}, "top_n"),
    ({"top_n": -1}, "top_n"),
    ({"top_n": 1.5}, "top_n"),
    ({"top_n": "1"}, "top_n"),
    ({"top_n": True}, "top_n"),
    ({"top_n": 2**31}, "top_n"),
    ({"return_documents": "yes"}, "return_documents"),
    ({"return_text": 1}, "return_text"),
    ({"raw_scores": []}, "raw_scores"),
    ({"truncate": "middle"}, "truncate"),
    ({"truncate": 1}, "truncate"),
    ({"model": 3}, "model"),
]


def test_what_is_wrong_is_refused_by_name(asked: FlaskClient) -> None:
    for fields, param in WRONG:
        response = embed(asked, {"query": "a", "documents": ["b"]} | fields, "/v1/rerank")
        assert response.status_code == 400, (fields, response.data)
        assert error_of(response)["param"] == param, fields


def test_texts_of_every_kind_are_scored(asked: FlaskClient) -> None:
    odd = ["\x00", "😀👩‍👩‍👧", "مرحبا \u202eabc", "w" * 4096, "\ufeff", "</s> [SEP]", " ", ""]
    for query in odd[:7]:
        assert len(rerank(asked, query=query, documents=odd)["results"]) == 8
    for raw in (b'{"query": "\\ud800", "documents": ["a"]}', b'{"query": "a", "documents": [NaN]}', b"[]", b"{"):
        assert embed(asked, raw, "/v1/rerank").status_code == 400
