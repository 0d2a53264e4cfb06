"""What requests that wait for a worker share: which model is meant by one that names none."""

from __future__ import annotations

import pytest
from redis import Redis

from shared.errors import ModelNotFound
from tests.web.conftest import MakeApp
from tests.web.support import AnsweringWorker, embed, error_of, model, presence, registry
from web.asking import reranker


def test_a_reranker_that_only_its_files_tell_is_found(make_app: MakeApp, redis: Redis) -> None:
    app = make_app(models=registry(model("m"), model("quiet")))
    with pytest.raises(ModelNotFound), app.test_request_context():
        reranker(None)
    says = {"m": presence(), "quiet": presence(kind="rerank")}
    with AnsweringWorker(redis, says).running(), app.test_request_context():
        assert reranker(None).name == "quiet"
        refused = embed(app.test_client(), {"model": "quiet", "input": ["a"]}, "/v1/embeddings/jobs")
        assert (refused.status_code, error_of(refused)["param"]) == (400, "model")
