"""Web's memory while a large NDJSON is submitted: the largest resident size of any of its processes, and rows a second.

python -m bench.memory [--megabytes 1024] [--text-bytes 1000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from bench.ending import end_on_signals
from bench.processes import MEGABYTE, family, resident_bytes, watched
from tests.support.service import Service


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--text-bytes", type=int, default=1000)
    arguments = parser.parse_args()
    end_on_signals()
    text = ("lorem ipsum dolor sit amet " * (arguments.text_bytes // 27 + 1))[: arguments.text_bytes].encode()
    per_block = 2000
    blocks = arguments.megabytes * MEGABYTE // (per_block * (len(text) + 40))

    def body() -> Iterator[bytes]:
        for block in range(blocks):
            first = block * per_block
            yield b"".join(b'{"id": "%d", "text": "%d %s"}\n' % (n, n, text) for n in range(first, first + per_block))

    with tempfile.TemporaryDirectory() as directory:
        service = Service(Path(directory))
        try:
            service.valkey.start()
            service.start_web()
            web = service.web
            assert web is not None
            service.wait_for(lambda: httpx.get(f"{service.url}/healthz").status_code == 200, "web")
            before = max(map(resident_bytes, family(web.pid)))
            with watched({"web": lambda: family(web.pid)}) as seen:
                started = time.perf_counter()
                headers = {"content-type": "application/x-ndjson"}
                answer = httpx.post(f"{service.url}/v1/embeddings/jobs", content=body(), headers=headers, timeout=600)
                seconds = time.perf_counter() - started
        finally:
            service.stop()
        assert answer.status_code == 202, answer.text
        rows = answer.json()["counts"]["total"]
    print(
        f"{arguments.megabytes} MB, {rows:,} rows in {seconds:.1f} s = {rows / seconds:,.0f} rows/s;"
        f" web {before / MEGABYTE:.0f} MB before, {max(seen['web']) / MEGABYTE:.0f} MB at most"
    )


if __name__ == "__main__":
    main()
