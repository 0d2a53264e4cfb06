"""The least a Flask server can do: read the JSON, make the vectors in the process, answer. What bench.lane measures against.

gunicorn --worker-class gthread --threads 64 bench.flask_alone:app
"""

from __future__ import annotations

import numpy as np
import orjson
from flask import Flask, Response, request

app = Flask("alone", static_folder=None)
_VECTOR = np.random.default_rng(0).random(384, dtype=np.float32)


@app.post("/v1/embeddings")
def create() -> Response:
    """The same vector for every text."""
    given = orjson.loads(request.get_data())
    texts = given["input"] if isinstance(given["input"], list) else [given["input"]]
    data = [{"object": "embedding", "index": index, "embedding": _VECTOR} for index in range(len(texts))]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    body = {"object": "list", "data": data, "model": given["model"], "usage": usage}
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), content_type="application/json")
