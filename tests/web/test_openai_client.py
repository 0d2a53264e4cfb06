"""OpenAI's own client against our app."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread

import numpy as np
import openai
import pytest
from flask import Flask
from werkzeug.serving import make_server

from tests.web.support import AnsweringWorker, vector_of


@pytest.fixture
def sdk(app: Flask) -> Iterator[openai.OpenAI]:
    """The client, over a socket, without retries of its own."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = Thread(target=server.serve_forever, name="test-server")
    thread.start()
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="None", max_retries=0, timeout=20) as client:
        yield client
    server.shutdown()
    thread.join()
    server.server_close()


def test_embeddings_arrive_as_base64_and_as_floats(sdk: openai.OpenAI, answering: AnsweringWorker) -> None:
    packed = sdk.embeddings.create(model="m", input=["one", "two"])
    floats = sdk.embeddings.create(model="m", input=["one", "two"], encoding_format="float", dimensions=8)
    for response in (packed, floats):
        np.testing.assert_allclose(response.data[1].embedding, vector_of("two"), rtol=1e-6)
        assert (response.model, response.usage.total_tokens) == ("m", 6)


def test_models_are_listed_and_found(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["m", "strict"]
    assert sdk.models.retrieve("m").owned_by == "umekomi"


def test_errors_become_the_clients_own_classes(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.embeddings.create(model="gpt", input="a")
    assert missing.value.code == "model_not_found"
    assert str(missing.value.request_id).startswith("req_")
    with pytest.raises(openai.BadRequestError) as wrong:
        sdk.embeddings.create(model="m", input="")
    assert wrong.value.param == "input"
    with pytest.raises(openai.InternalServerError) as absent:
        sdk.embeddings.create(model="m", input="a")
    assert absent.value.response.headers["retry-after-ms"].isdigit()
