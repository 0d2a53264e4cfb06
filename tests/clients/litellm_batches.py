"""The same by litellm, as a proxy or an application of its users does it.

python litellm_batches.py BASE_URL INPUT_FILE
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import litellm

ENDED = ("completed", "failed", "cancelled", "expired")


def run(base_url: str, input_file: str) -> dict[str, Any]:
    """What each call gave."""
    where: dict[str, Any] = {"custom_llm_provider": "openai", "api_base": base_url, "api_key": "unused"}
    with Path(input_file).open("rb") as source:
        file: Any = litellm.create_file(file=source, purpose="batch", **where)
    batch: Any = litellm.create_batch(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", metadata={"night": "1"}, **where
    )
    deadline = time.monotonic() + 60
    while batch.status not in ENDED and time.monotonic() < deadline:
        time.sleep(0.05)
        batch = litellm.retrieve_batch(batch_id=batch.id, **where)
    output: Any = litellm.file_content(file_id=batch.output_file_id, **where)
    listed: Any = litellm.list_batches(limit=2, **where)
    return {
        "version": litellm.__name__,
        "batch": batch.model_dump(),
        "output": [json.loads(line) for line in output.content.splitlines()],
        "batches": [each.id for each in listed.data],
    }


if __name__ == "__main__":
    print(json.dumps(run(*sys.argv[1:]), default=str))
