from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import click
import httpx
import pytest

from cli.client import ApiClient, Refused, TryAgain
from tests.support.api import FakeApi, Reply


@pytest.fixture
def open_client() -> Iterator[Callable[..., ApiClient]]:
    with ExitStack() as stack:
        yield lambda url, key=None: stack.enter_context(closing(ApiClient(url, key)))


WRONG = {
    "error": {"message": "dimensions: the model has 384", "type": "invalid_request_error", "param": "dimensions", "code": "x"}
}
VECTOR = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 1}}


def test_the_key_goes_along_and_the_url_may_end_in_v1(open_client: Callable[..., ApiClient], api: FakeApi) -> None:
    api.on("GET", "/v1/models", Reply({"data": []}))

    open_client(api.url + "/v1/", "secret").models()

    assert api.asked[0].headers["authorization"] == "Bearer secret"


def test_a_url_without_scheme_is_http(open_client: Callable[..., ApiClient], api: FakeApi) -> None:
    api.on("GET", "/v1/models", Reply({"data": []}))

    assert open_client(api.url.removeprefix("http://")).models() == []
    assert "authorization" not in api.asked[0].headers


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    open_client: Callable[..., ApiClient], api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    api.on("GET", "/v1/models", Reply({"data": []}))

    assert open_client(api.url).models() == []


def test_a_refusal_is_the_servers_sentence(open_client: Callable[..., ApiClient], api: FakeApi) -> None:
    api.on("POST", "/v1/embeddings", Reply(WRONG, 400))

    with pytest.raises(Refused, match=r"^dimensions: the model has 384$") as raised:
        open_client(api.url).embed(["a"], dimensions=400)

    assert raised.value.exit_code == 1


def test_a_refusal_whose_sentence_lacks_the_parameter_gets_it(open_client: Callable[..., ApiClient], api: FakeApi) -> None:
    api.on("GET", "/v1/models", Reply({"error": {"message": "no such thing", "param": "model"}}, 404))

    with pytest.raises(Refused, match=r"^no such thing \(parameter model\)$"):
        open_client(api.url).models()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_means_try_again(open_client: Callable[..., ApiClient], api: FakeApi, status: int) -> None:
    api.on("GET", "/v1/models", Reply({"error": {"message": "later", "param": None}}, status))

    with pytest.raises(TryAgain, match=r"^later$"):
        open_client(api.url).models()


def test_a_wrong_key_says_how_to_give_one(open_client: Callable[..., ApiClient], api: FakeApi) -> None:
    api.on("GET", "/v1/models", Reply({"error": {"message": "an API key is needed", "param": None}}, 401))

    with pytest.raises(Refused, match="UMEKOMI_API_KEY"):
        open_client(api.url).models()


@pytest.mark.parametrize(("status", "body"), [(502, b"<html>bad gateway</html>"), (404, b""), (200, b"<html></html>")])
def test_an_answer_of_something_else_is_a_sentence_too(
    open_client: Callable[..., ApiClient], api: FakeApi, status: int, body: bytes
) -> None:
    api.on("GET", "/v1/models", Reply(body, status))

    with pytest.raises(click.ClickException):
        open_client(api.url).models()


def test_an_answer_that_is_not_a_job_is_refused(open_client: Callable[..., ApiClient], api: FakeApi) -> None:
    api.on("GET", "/v1/embeddings/jobs/job_1", Reply({"id": "job_1"}))

    with pytest.raises(Refused, match="not a job"):
        open_client(api.url).job("job_1")


def test_no_server_says_how_to_start_one(open_client: Callable[..., ApiClient]) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else can take it meanwhile
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(TryAgain, match="umekomi serve") as raised:
            open_client(url).models()

    assert raised.value.exit_code == 3


@pytest.mark.parametrize("url", ["ftp://x", "http://[::1"])
def test_a_url_that_is_none_is_a_usage_error(open_client: Callable[..., ApiClient], url: str) -> None:
    with pytest.raises(click.UsageError):
        open_client(url).models()


def test_a_connection_that_breaks_in_the_answer_means_try_again(open_client: Callable[..., ApiClient], api: FakeApi) -> None:
    api.on("POST", "/v1/embeddings", Reply(VECTOR, cut_at=10))

    with pytest.raises(TryAgain, match="broke"):
        open_client(api.url).embed(["a"])


def test_parameters_that_are_not_given_are_not_sent(open_client: Callable[..., ApiClient], api: FakeApi) -> None:
    api.on("POST", "/v1/embeddings", Reply(VECTOR))

    vectors, usage = open_client(api.url).embed(["a"], model=None, dimensions=3)

    assert api.asked[0].json == {"input": ["a"], "encoding_format": "float", "dimensions": 3}
    assert (vectors, usage) == ([[0.5]], {"prompt_tokens": 1})


@pytest.mark.parametrize("job_id", ["", "../files", "a/b", "a?b"])
def test_an_id_that_is_none_never_becomes_a_path(open_client: Callable[..., ApiClient], api: FakeApi, job_id: str) -> None:
    with pytest.raises(click.UsageError):
        open_client(api.url).job(job_id)

    assert api.asked == []


def test_the_timeout_of_a_connection_is_short(open_client: Callable[..., ApiClient]) -> None:
    assert open_client("http://x")._http.timeout == httpx.Timeout(60.0, connect=5.0)
