"""Embeddings by haystack: of a text, and of documents.

python haystack_embeddings.py '{"base_url": …, "refusing_url": …, "model": …, "texts": […]}'
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret


def run(given: dict[str, Any]) -> dict[str, Any]:
    """What each call gave."""
    texts = given["texts"]
    where: dict[str, Any] = {"api_base_url": given["base_url"], "api_key": Secret.from_token("unused"), "model": given["model"]}
    of_text, of_documents = OpenAITextEmbedder(**where), OpenAIDocumentEmbedder(**where, progress_bar=False)
    many = of_documents.run(documents=[Document(content=text) for text in texts])
    other = asyncio.run(OpenAITextEmbedder(**where).run_async(texts[0]))
    refused = OpenAITextEmbedder(
        **where | {"api_base_url": given["refusing_url"], "api_key": Secret.from_token(given["name"])},
    )
    try:
        OpenAITextEmbedder(**where | {"model": "nothing"}).run("x")
        error = "nothing was wrong"
    except Exception as raised:
        error = type(raised).__name__
    one = of_text.run(texts[0])
    return {
        "one": one["embedding"],
        "many": [document.embedding for document in many["documents"]],
        "async": [other["embedding"]],
        "cut": OpenAITextEmbedder(**where, dimensions=64).run(texts[0])["embedding"],
        "usage": one["meta"]["usage"],
        "retried": refused.run(texts[0])["embedding"],
        "errors": {"model": error},
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
