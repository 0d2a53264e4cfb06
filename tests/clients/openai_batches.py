"""A batch by the official client, from the upload to the output; prints what came back as JSON. Runs with any of its majors.

python openai_batches.py BASE_URL INPUT_FILE
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import openai

ENDED = ("completed", "failed", "cancelled", "expired")


def run(base_url: str, input_file: str) -> dict[str, Any]:
    """What each call gave."""
    client = openai.OpenAI(base_url=base_url, api_key="unused", timeout=60)
    with Path(input_file).open("rb") as source:
        expires_after: Any = {"anchor": "created_at", "seconds": 7200}
        file = client.files.create(file=source, purpose="batch", expires_after=expires_after)
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", metadata={"night": "1"}
    )
    created = batch.status
    deadline = time.monotonic() + 60
    while batch.status not in ENDED and time.monotonic() < deadline:
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    output = client.files.content(batch.output_file_id).text if batch.output_file_id else ""
    errors = client.files.content(batch.error_file_id).text if batch.error_file_id else ""
    pages = [each.id for each in client.batches.list(limit=1)]
    files = [each.id for each in client.files.list(purpose="batch", order="desc", limit=1)]
    second = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", metadata=None)
    cancelled = client.batches.cancel(second.id)
    deleted = client.files.delete(file.id)
    try:
        client.files.retrieve(file.id)
        found = "still there"
    except openai.NotFoundError as error:
        found = str(error.code)
    return {
        "version": openai.__version__,
        "file": file.model_dump(),
        "created": created,
        "batch": batch.model_dump(),
        "output": [json.loads(line) for line in output.splitlines()],
        "errors": [json.loads(line) for line in errors.splitlines()],
        "batches": pages,
        "files": files,
        "cancelled": [second.metadata, cancelled.status],
        "deleted": deleted.model_dump(),
        "afterwards": found,
    }


if __name__ == "__main__":
    print(json.dumps(run(*sys.argv[1:])))
