"""Signatures that receivers with the libraries they already have can check."""

from __future__ import annotations

import base64
import time

import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from shared.signing import sign, signing_key

SECRETS = ["whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode(), "plain text"]


@pytest.mark.parametrize("secret", SECRETS)
def test_the_openai_client_accepts_what_is_signed(secret: str) -> None:
    body = b'{"id": "evt_1", "type": "embedding.job.completed", "data": {"id": "job_1"}}'
    headers = sign(secret, "evt_1", int(time.time()), body)
    client = OpenAI(api_key="unused", webhook_secret=secret)
    client.webhooks.verify_signature(body, headers)
    event = client.webhooks.unwrap(body, headers)
    assert event.type == "embedding.job.completed"


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b"{} ", {}),
        (b"{}", {"webhook-id": "evt_2"}),
        (b"{}", {"webhook-timestamp": str(int(time.time()) + 1)}),
    ],
)
def test_nothing_signed_can_be_changed(body: bytes, changed: dict[str, str]) -> None:
    headers = sign(SECRETS[0], "evt_1", int(time.time()) - 60, b"{}") | changed
    with pytest.raises(InvalidWebhookSignatureError):
        OpenAI(api_key="unused", webhook_secret=SECRETS[0]).webhooks.verify_signature(body, headers)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_not base64!"])
def test_a_secret_that_cannot_be_decoded_is_refused_without_being_told(secret: str) -> None:
    with pytest.raises(ValueError, match="base64") as raised:
        signing_key(secret)
    assert "not base64!" not in str(raised.value)
