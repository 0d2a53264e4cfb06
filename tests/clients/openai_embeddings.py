"""Embeddings by the official client, all that it can do with them; prints what came back as JSON. Runs with any of its majors.

python openai_embeddings.py '{"base_url": …, "refusing_url": …, "model": …, "texts": […]}'
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import openai


def error_of(client: openai.OpenAI, **request: Any) -> list[Any]:
    """The client's own class, and what it tells of the error."""
    try:
        client.embeddings.create(**request)
    except openai.APIStatusError as error:
        return [type(error).__name__, error.code, error.param, str(error.request_id)[:4]]
    return ["nothing was wrong"]


def run(given: dict[str, Any]) -> dict[str, Any]:
    """What each call gave."""
    model, texts = given["model"], given["texts"]
    client = openai.OpenAI(base_url=given["base_url"], api_key="unused", timeout=60)
    refused = openai.OpenAI(base_url=given["refusing_url"], api_key=given["name"], timeout=60)

    async def asynchronously() -> Any:
        async with openai.AsyncOpenAI(base_url=given["base_url"], api_key="unused", timeout=60) as other:
            return await asyncio.gather(*(other.embeddings.create(model=model, input=text) for text in texts))

    packed = client.embeddings.create(model=model, input=texts)
    floats = client.embeddings.create(model=model, input=texts, encoding_format="float", user="someone")
    raw = client.embeddings.with_raw_response.create(model=model, input=texts[0], extra_headers={"X-Request-Id": "mine-1"})
    found = {
        "version": openai.__version__,
        "one": client.embeddings.create(model=model, input=texts[0]).data[0].embedding,
        "many": [each.embedding for each in packed.data],
        "floats": [each.embedding for each in floats.data],
        "async": [each.data[0].embedding for each in asyncio.run(asynchronously())],
        "cut": client.embeddings.create(model=model, input=texts[0], dimensions=64).data[0].embedding,
        "usage": packed.usage.model_dump(),
        "retried": refused.embeddings.create(model=model, input=texts[0]).data[0].embedding,
        "models": [each.id for each in client.models.list()],
        "request_id": raw.headers["x-request-id"],
        "errors": {
            "model": error_of(client, model="nothing", input="x"),
            "input": error_of(client, model=model, input=""),
            "dimensions": error_of(client, model=model, input="x", dimensions=100_000),
            "ids": error_of(client, model=model, input=[1, 2]),
        },
    }
    client.close()
    refused.close()
    return found


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
