"""Embeddings by llama-index: OpenAIEmbedding, which knows OpenAI's models, and OpenAILikeEmbedding, which takes any.

python llama_index_embeddings.py '{"base_url": …, "refusing_url": …, "model": …, "texts": […]}'
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding


def run(given: dict[str, Any], kind: Any, **model: Any) -> dict[str, Any]:
    """What each call gave."""
    texts = given["texts"]
    where: dict[str, Any] = {"api_base": given["base_url"], "api_key": "unused", "embed_batch_size": 4}
    client = kind(**where, **model)
    refused = kind(**where | {"api_base": given["refusing_url"], "api_key": f"{given['name']}-{kind.__name__}"}, **model)
    errors = {}
    try:
        kind(**where, **dict.fromkeys(model, "nothing")).get_text_embedding("x")
    except Exception as raised:
        errors["model"] = type(raised).__name__
    return {
        "one": client.get_query_embedding(texts[0]),
        "many": client.get_text_embedding_batch(texts),
        "async": asyncio.run(kind(**where, **model).aget_text_embedding_batch(texts)),
        "cut": kind(**where, **model, dimensions=64).get_text_embedding(texts[0]),
        "retried": refused.get_text_embedding(texts[0]),
        "errors": errors,
    }


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    found = {
        "OpenAI": run(given, OpenAIEmbedding, model_name=given["model"]),
        "OpenAILike": run(given, OpenAILikeEmbedding, model_name=given["model"]),
    }
    print(json.dumps(found))
