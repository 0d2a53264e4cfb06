"""POST /embed, POST / and GET /info: what clients of Text Embeddings Inference call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from shared.interactive import Answer, Ask
from tests.web.support import AnsweringWorker, embed, error_of, hash_answer, vector_of


@pytest.mark.parametrize("path", ["/embed", "/"])
def test_each_text_has_its_vector_in_a_bare_list(client: FlaskClient, answering: AnsweringWorker, path: str) -> None:
    assert np.array(embed(client, {"inputs": "one"}, path).json).shape == (1, 8)
    vectors = embed(client, {"inputs": ["one", "two"], "normalize": True, "prompt_name": None}, path).json
    np.testing.assert_allclose(vectors, [vector_of("one"), vector_of("two")], rtol=1e-6)


def test_parameters_reach_the_worker_and_unit_length_is_made(client: FlaskClient, answering: AnsweringWorker) -> None:
    def three_times(ask: Ask) -> Answer:
        answer = hash_answer(ask)
        assert isinstance(answer, Answer)
        return replace(answer, vectors=answer.vectors * 3)

    answering.reply = three_times
    body = {"inputs": "a", "truncate": False, "prompt_name": "query", "dimensions": 4}
    (long,) = embed(client, body, "/embed").json
    (unit,) = embed(client, body | {"normalize": True, "truncate": True}, "/embed").json
    assert [np.linalg.norm(long), np.linalg.norm(unit)] == pytest.approx([3, 1], abs=1e-5)
    assert [ask.truncate for ask in answering.asks] == ["error", "end"]
    assert (answering.asks[0].prompt_name, answering.asks[0].dimensions) == ("query", 4)


def test_the_default_model_is_described(client: FlaskClient, answering: AnsweringWorker) -> None:
    info = client.get("/info").json
    assert (info["model_id"], info["max_input_length"], info["max_client_batch_size"]) == ("m", 16, 8)
    assert "embedding" in info["model_type"]


WRONG: list[tuple[Any, str | None]] = [
    ({}, "inputs"),
    ({"inputs": None}, "inputs"),
    ({"inputs": ""}, "inputs"),
    ({"inputs": []}, "inputs"),
    ({"inputs": [""]}, "inputs"),
    ({"inputs": 1}, "inputs"),
    ({"inputs": [1]}, "inputs"),
    ({"inputs": [["a"]]}, "inputs"),
    ({"inputs": ["a"] * 9}, "inputs"),
    ({"inputs": "w" * 1025}, "inputs"),
    ({"inputs": "a", "normalize": "true"}, "normalize"),
    ({"inputs": "a", "truncate": "end"}, "truncate"),
    ({"inputs": "a", "prompt_name": ""}, "prompt_name"),
    ({"inputs": "a", "input_type": 1}, "input_type"),
    ({"inputs": "a", "input_type": "query", "prompt_name": "query"}, "prompt_name"),
    ({"inputs": "a", "dimensions": 0}, "dimensions"),
    ({"inputs": "a", "model": []}, "model"),
    (b'{"inputs": "\\ud800"}', None),
    (b'{"inputs": "a", "dimensions": 1e999}', None),
    (b"null", None),
]


def test_what_is_wrong_is_refused_by_name(client: FlaskClient, answering: AnsweringWorker) -> None:
    for body, param in WRONG:
        response = embed(client, body, "/embed")
        assert response.status_code == 400, (body, response.data)
        assert error_of(response)["param"] == param, body
