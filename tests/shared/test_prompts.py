"""input_type: what callers write for it, and which of a model's prompts it stands for."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from shared.prompts import GivenInputType, prompt_of, written_out


class Fields(BaseModel):
    input_type: GivenInputType = None


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("query", "query"),
        ("search_query", "query"),
        ("retrieval.query", "query"),
        ("RETRIEVAL_QUERY", "query"),
        ("document", "document"),
        ("passage", "document"),
        ("search_document", "document"),
        ("retrieval.passage", "document"),
        ("RETRIEVAL_DOCUMENT", "document"),
        ("classification", "classification"),
        ("clustering", "clustering"),
        (None, None),
    ],
)
def test_the_spellings_of_other_apis_are_ours(given: str | None, meant: str | None) -> None:
    assert Fields.model_validate({"input_type": given}).input_type == meant


@pytest.mark.parametrize("given", ["", "queries", "search", 1, True, ["query"], {"query": 1}, "query\x00"])
def test_anything_else_is_refused(given: object) -> None:
    with pytest.raises(ValidationError):
        Fields.model_validate({"input_type": given})


# As their config_sentence_transformers.json has them.
MODELS = {
    "e5": ({"query": "query: ", "passage": "passage: "}, "query: ", "passage: "),
    "sentence-transformers' own": ({"query": "Q: ", "document": ""}, "Q: ", ""),
    "an empty document beside a passage": ({"document": "", "passage": "p: "}, "", "p: "),
    "nomic": ({"search_query": "search_query: ", "search_document": "search_document: "}, "search_query: ", "search_document: "),
    "jina v3": ({"retrieval.query": "R: ", "retrieval.passage": "P: ", "separation": "S: "}, "R: ", "P: "),
    "gemma": ({"Retrieval-query": "q| ", "Retrieval-document": "d| ", "Clustering": "c| "}, "q| ", "d| "),
    "stella": ({"s2p_query": "I: ", "s2s_query": "J: "}, "I: ", ""),
    "e5-mistral": ({"web_search_query": "W: ", "sts_query": "S: "}, "W: ", ""),
    "none at all": ({}, "", ""),
}


@pytest.mark.parametrize("model", MODELS)
def test_an_input_type_finds_the_models_prompt_whatever_it_is_called(model: str) -> None:
    prompts, query, document = MODELS[model]
    assert prompt_of("query", prompts) == query
    assert prompt_of("document", prompts) == document


def test_the_others_are_found_too() -> None:
    assert prompt_of("clustering", MODELS["gemma"][0]) == "c| "
    assert prompt_of("clustering", MODELS["jina v3"][0]) == "S: "
    assert prompt_of("classification", {"classification": "c: "}) == "c: "
    with pytest.raises(KeyError):
        prompt_of("no such", {"query": "q: "})


def test_a_prompt_that_is_written_out_is_the_longest_one() -> None:
    prompts = {"query": "query: ", "long": "query: long: ", "empty": ""}
    assert written_out("query: a", prompts) == "query: "
    assert written_out("query: long: a", prompts) == "query: long: "
    assert written_out("query:a", prompts) == ""
    assert written_out("a query: b", prompts) == ""
    assert written_out("", prompts) == ""
