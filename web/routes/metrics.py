"""GET /metrics: what Prometheus scrapes."""

from __future__ import annotations

from flask import Blueprint, Response, request

from shared import counting
from web.openapi import Returns, describe
from web.parts import parts

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
@describe(
    returns=[
        Returns(media_type="text/plain", description="Prometheus's text format."),
        Returns(media_type="application/openmetrics-text", description="OpenMetrics, for a scraper that accepts it."),
    ],
)
def get_metrics() -> Response:
    """What Prometheus scrapes: what this server counted, and how workers, lanes and jobs stand."""
    body, content_type = counting.told(parts().metrics, request.headers.get("Accept", ""))
    return Response(body, content_type=content_type)
