"""What the settings make of the app as a whole."""

from __future__ import annotations

from tests.web.conftest import MakeApp
from tests.web.support import error_of


def test_every_response_carries_the_machine_tag(make_app: MakeApp) -> None:
    client = make_app(machine_tag="box-7").test_client()

    for path in ("/healthz", "/v1/models", "/no/such/route"):
        assert client.get(path).headers["Machine-Tag"] == "box-7"
    assert "Machine-Tag" not in make_app().test_client().get("/healthz").headers


def test_the_pages_for_browsers_can_be_left_out(make_app: MakeApp) -> None:
    assert make_app().test_client().get("/docs").status_code == 200

    client = make_app(disable_webui=True).test_client()

    for path in ("/docs", "/docs/", "/docs/swagger-ui.css"):
        answer = client.get(path)
        assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")
    assert client.get("/openapi.json").status_code == 200
    assert client.get("/v1/models").status_code == 200


def test_the_metrics_can_be_left_out(make_app: MakeApp) -> None:
    assert make_app(disable_metrics_endpoint=True).test_client().get("/metrics").status_code == 404
