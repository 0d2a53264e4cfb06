"""Embeddings by litellm, through its `openai/` and its `hosted_vllm/` provider.

python litellm_embeddings.py '{"base_url": …, "refusing_url": …, "model": …, "texts": […]}'
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import litellm


def run(given: dict[str, Any], provider: str) -> dict[str, Any]:
    """What each call gave."""
    texts = given["texts"]
    where: dict[str, Any] = {"model": f"{provider}/{given['model']}", "api_base": given["base_url"], "api_key": "unused"}
    many = litellm.embedding(input=texts, **where)
    try:
        litellm.embedding(input="x", **where | {"model": f"{provider}/nothing"})
        error = "nothing was wrong"
    except Exception as raised:
        error = type(raised).__name__
    other = asyncio.run(litellm.aembedding(input=texts, encoding_format="float", **where))
    # Its router tries again; below it only `openai/` has a client that would.
    refused = where | {"api_base": given["refusing_url"], "api_key": f"{given['name']}-{provider}"}
    router = litellm.Router([{"model_name": "m", "litellm_params": refused}], num_retries=2, disable_cooldowns=True)
    retried = router.embedding(model="m", input=texts[:1])
    cut = litellm.embedding(input=texts[:1], dimensions=64, allowed_openai_params=["dimensions"], **where)
    return {
        "version": provider,
        "one": litellm.embedding(input=texts[0], **where).data[0]["embedding"],
        "many": [each["embedding"] for each in many.data],
        "async": [each["embedding"] for each in other.data],
        "cut": cut.data[0]["embedding"],
        "usage": many.usage.model_dump(),
        "retried": retried.data[0]["embedding"],
        "errors": {"model": error},
    }


if __name__ == "__main__":
    print(json.dumps({provider: run(json.loads(sys.argv[1]), provider) for provider in ("openai", "hosted_vllm")}, default=str))
