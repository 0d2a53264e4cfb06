"""A card's limit and what the engine makes of it: models of bert-base and bert-large shape, with random weights.

python -m bench.gpu [--device cuda:0] [--seconds 20] [--tiny]

For each: tokens/s of a corpus in bulk, against the card's own speed at large half-precision products (2 x parameters a token),
with padding in the network's layers and without; what somebody who asks one question at a time waits, idle and while the
corpus runs. `--tiny` is a smoke test for a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

from bench.texts import WORDS, make_texts
from shared.models import ModelConfig, ModelRegistry, Parameters
from shared.settings import Settings
from worker.engine import EmbedRequest, Engine

# hidden size, layers, heads
SHAPES = {"bert-base": (768, 12, 12), "bert-large": (1024, 24, 16), "tiny": (32, 2, 4)}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
REQUEST_TEXTS = 4096
REQUESTS_WAITING = 3


def build(folder: Path, shape: str) -> int:
    """Write the model; returns the parameters that a token is multiplied with."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    hidden, layers, heads = SHAPES[shape]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *dict.fromkeys(WORDS)]), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30_522,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
    )
    model = BertModel(config)
    model.save_pretrained(folder / "plain")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "plain")
    SentenceTransformer(modules=[Transformer(str(folder / "plain")), Pooling(hidden, "mean")]).save(str(folder / "model"))
    return sum(weight.numel() for weight in model.encoder.parameters())


def limit_flops(device: str) -> float:
    """Floating point operations a second of one large product, in the type that the engine would choose."""
    import torch

    is_cuda = device.startswith("cuda")
    size, dtype = (8192, torch.float16) if is_cuda else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        if is_cuda:
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        a @ b
        if is_cuda:
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best


def ask(engine: Engine, entry: ModelConfig, seconds: float) -> list[float]:
    """One question after another; each one's milliseconds."""
    texts, took = make_texts("short", 1000, seed=2), []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        request = EmbedRequest(model=entry, texts=[texts[len(took) % len(texts)]], lane="interactive")
        engine.submit(request).result(120)
        took.append(1000 * (time.perf_counter() - began))
    return took


def run_bulk(engine: Engine, entry: ModelConfig, stop: threading.Event, count: int) -> tuple[int, float]:
    """Requests of mixed texts, a few always waiting, until told to stop; tokens that were done, and seconds."""
    texts = make_texts("mixed", count)
    waiting, tokens, began = [], 0, time.perf_counter()
    while not stop.is_set():
        while len(waiting) < REQUESTS_WAITING:
            waiting.append(engine.submit(EmbedRequest(model=entry, texts=texts, lane="bulk")))
        tokens += int(waiting.pop(0).result(600).tokens.sum())
    took = time.perf_counter() - began
    for future in waiting:
        future.cancel()
    return tokens, took


def percentiles(took: list[float]) -> str:
    """p50 and p99, in ms."""
    ordered = sorted(took)
    return f"p50 {statistics.median(ordered):7.1f} ms  p99 {ordered[int(0.99 * (len(ordered) - 1))]:7.1f} ms"


def serve(entry: ModelConfig, folder: Path, device: str, count: int, *, varlen: bool) -> Engine:
    """An engine with the model loaded and a first corpus run."""
    engine = Engine(Settings(data_dir=folder, device=device, varlen=varlen), ModelRegistry({entry.name: entry}))
    engine.start()
    engine.submit(EmbedRequest(model=entry, texts=make_texts("mixed", count, seed=9), lane="bulk")).result(600)
    return engine


def bulk_for(
    engine: Engine, entry: ModelConfig, seconds: float, count: int, *, asking: bool = False
) -> tuple[float, list[float]]:
    """Tokens/s of a corpus for so long, and each question's milliseconds, if somebody is asking."""
    stop, found = threading.Event(), []
    thread = threading.Thread(target=lambda: found.append(run_bulk(engine, entry, stop, count)))
    thread.start()
    took = ask(engine, entry, seconds) if asking else []
    if not asking:
        stop.wait(seconds)
    stop.set()
    thread.join()
    tokens, lasted = found[0]
    return tokens / lasted, took


def measure(shape: str, folder: Path, device: str, seconds: float) -> None:
    """Print one model's figures."""
    parameters = build(folder, shape)
    entry = ModelConfig(name=shape, parameters=Parameters(model=str(folder / "model")))
    count = REQUEST_TEXTS if shape != "tiny" else 256
    engine = serve(entry, folder, device, count, varlen=False)
    padded, _ = bulk_for(engine, entry, seconds / 2, count)
    engine.stop()
    engine = serve(entry, folder, device, count, varlen=True)
    idle = ask(engine, entry, seconds / 2)
    alone, _ = bulk_for(engine, entry, seconds, count)
    beside, waited = bulk_for(engine, entry, seconds, count, asking=True)
    presence = engine.presence()[shape]
    engine.stop()
    limit = limit_flops(engine.device) / (2.0 * parameters)
    print(f"{shape}: {parameters / 1e6:.0f} M parameters, {presence.dtype}, limit {limit:,.0f} tokens/s")
    print(f"  bulk with padding       {padded:12,.0f} tokens/s  {100 * padded / limit:5.1f} % of the limit")
    print(f"  bulk alone              {alone:12,.0f} tokens/s  {100 * alone / limit:5.1f} % of the limit")
    print(f"  bulk beside questions   {beside:12,.0f} tokens/s  {100 * beside / max(alone, 1e-9):5.1f} % of alone")
    print(f"  questions idle          {percentiles(idle)}")
    print(f"  questions beside bulk   {percentiles(waited)}")


def main() -> None:
    """Measure each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    for shape in ("tiny",) if options.tiny else ("bert-base", "bert-large"):
        with tempfile.TemporaryDirectory(prefix="umekomi-bench-") as folder:
            measure(shape, Path(folder) / shape, options.device, 2.0 if options.tiny else options.seconds)


if __name__ == "__main__":
    main()
