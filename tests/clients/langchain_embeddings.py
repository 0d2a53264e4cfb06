"""Embeddings by langchain-openai: its default, which sends token ids of cl100k_base, and check_embedding_ctx_length=False.

python langchain_embeddings.py '{"base_url": …, "refusing_url": …, "model": …, "ids_model": …, "texts": […]}'
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from langchain_openai import OpenAIEmbeddings


def run(given: dict[str, Any]) -> dict[str, Any]:
    """What each call gave."""
    texts = given["texts"]
    where: dict[str, Any] = {"base_url": given["base_url"], "api_key": "unused", "model": given["model"]}
    plain = OpenAIEmbeddings(check_embedding_ctx_length=False, **where)
    ids = OpenAIEmbeddings(**where | {"model": given["ids_model"]})
    refused = OpenAIEmbeddings(
        check_embedding_ctx_length=False, **where | {"base_url": given["refusing_url"], "api_key": given["name"]}
    )
    errors = {}
    unknown = OpenAIEmbeddings(check_embedding_ctx_length=False, **where | {"model": "nothing"})
    for name, wrong in {"ids": OpenAIEmbeddings(**where), "model": unknown}.items():
        try:
            wrong.embed_query("a question")
        except Exception as raised:
            errors[name] = [type(raised).__name__, str(raised)]
    return {
        "one": plain.embed_query(texts[0]),
        "many": plain.embed_documents(texts),
        "async": asyncio.run(plain.aembed_documents(texts)),
        "cut": OpenAIEmbeddings(check_embedding_ctx_length=False, dimensions=64, **where).embed_query(texts[0]),
        "retried": refused.embed_query(texts[0]),
        "by_ids": ids.embed_documents(texts),
        "query_by_ids": ids.embed_query(texts[0]),
        "errors": errors,
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
