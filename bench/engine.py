"""Engines against `SentenceTransformer.encode`, in one sitting: one short text, and mixed texts in bulk.

python -m bench.engine [--model DIRECTORY] [--texts 4000] [--repeats 3]

In one process, through worker.engine as a worker has it, and the backend alone for the forward's share. Each engine's vectors
are compared with encode's. Quote ratios: machines are noisy.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.texts import make_texts
from shared.models import BUNDLED, ModelConfig, ModelRegistry, Parameters, find_source
from shared.settings import Settings
from worker.engine import EmbedRequest, Engine

SINGLES = 200
# Ten words and two special tokens of a BERT.
QUESTION_WORDS = 10


def questions() -> list[str]:
    """Of 12 tokens each."""
    return [" ".join(text.split()[:QUESTION_WORDS]) for text in make_texts("long", SINGLES, seed=1)]


def p50_ms(embed: Callable[[str], object]) -> float:
    """The median of one text after another."""
    took = []
    for text in questions():
        began = time.perf_counter()
        embed(text)
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=BUNDLED.parameters.model)
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", default="torch,onnx")
    options = parser.parse_args()
    texts = make_texts("mixed", options.texts)

    with tempfile.TemporaryDirectory(prefix="umekomi-bench-") as folder:
        names = options.engines.split(",")
        entries = {
            name: ModelConfig(name=name, engine=name, parameters=Parameters(model=options.model))
            for name in names  # type: ignore[arg-type]
        }
        engine = Engine(Settings(data_dir=Path(folder), device="cpu"), ModelRegistry(entries))
        engine.start()
        for name in names:
            engine.submit(EmbedRequest(model=entries[name], texts=["load"], lane="bulk")).result(600)
        # Only now: encode is to have all the threads it likes, and torch keeps the number set last.
        import torch
        from sentence_transformers import SentenceTransformer

        from worker.backends.devices import cores

        directory = find_source(entries[names[0]], Path()).directory
        library = SentenceTransformer(str(directory or options.model), device="cpu")
        rates: dict[str, list[float]] = {name: [] for name in ("encode", *names)}
        singles: dict[str, list[float]] = {name: [] for name in ("encode", *names)}
        least: dict[str, float] = {}
        for _ in range(options.repeats):
            torch.set_num_threads(cores())
            began = time.perf_counter()
            right = library.encode(texts, batch_size=32, show_progress_bar=False)
            rates["encode"].append(len(texts) / (time.perf_counter() - began))
            singles["encode"].append(p50_ms(lambda text: library.encode(text, show_progress_bar=False)))
            for name in names:
                entry = entries[name]
                began = time.perf_counter()
                answer = engine.submit(EmbedRequest(model=entry, texts=texts, lane="bulk")).result(3600)
                rates[name].append(len(texts) / (time.perf_counter() - began))
                cosines = (answer.vectors * right).sum(axis=1)
                cosines /= np.linalg.norm(answer.vectors, axis=1) * np.linalg.norm(right, axis=1)
                least[name] = float(cosines.min())
                singles[name].append(
                    p50_ms(
                        lambda text, entry=entry: engine.submit(  # type: ignore[misc]
                            EmbedRequest(model=entry, texts=[text], lane="interactive")
                        ).result(60)
                    )
                )
        engine.stop()

    print(f"{len(texts)} mixed texts; one text of {QUESTION_WORDS + 2} tokens; medians of {options.repeats}; {cores()} cores")
    print("engine    texts/s  of encode   one text p50  of encode   least cosine")
    for name in rates:
        rate, single = statistics.median(rates[name]), statistics.median(singles[name])
        of_rate, of_single = rate / statistics.median(rates["encode"]), single / statistics.median(singles["encode"])
        print(f"{name:8}  {rate:7.1f}  {of_rate:9.2f}   {single:9.2f} ms  {of_single:9.2f}   {least.get(name, 1.0):12.6f}")


if __name__ == "__main__":
    main()
