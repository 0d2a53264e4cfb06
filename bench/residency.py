"""Does unloading a model give its memory back? Loads and unloads it again and again, with a few batches between.

    python -m bench.residency [--times 5] [--device cuda] [--engine torch] [--model DIRECTORY]

On a CPU the process's RSS is compared with what it was before the first load; on a GPU what torch has given out and what it
holds. Libraries are imported before, for no model is to blame for them. Each time runs batches in two threads, as a worker does.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from shared.models import BUNDLED, ModelConfig, Parameters, find_source
from worker.backends import Backend, LoadOptions, load_backend
from worker.backends.memory import give_back, memory_in_use, one_heap, own_pages

TEXT = "Embeddings of sentences are vectors of numbers, and a model takes memory. " * 12
MB = 2**20


def main() -> None:
    """Print a line for each load, and the verdict."""
    arguments = _arguments()
    one_heap()
    config = BUNDLED if arguments.model is None else ModelConfig(name="m", parameters=Parameters(model=arguments.model))
    config = config.model_copy(update={"engine": arguments.engine})
    source = find_source(config, Path.cwd())
    engine = "worker.backends.onnxruntime" if arguments.engine == "onnx" else "worker.backends.sentence_transformers"
    import_module(engine)
    engines = Path(tempfile.gettempdir()) / "umekomi-bench-engines"  # where exports to ONNX stay
    before = after = memory_in_use(arguments.device)
    print(f"before the first load: {before / MB:.0f} MB")
    afters = []
    for turn in range(arguments.times):
        began = time.monotonic()
        with own_pages():
            backend = load_backend(config, source, LoadOptions(device=arguments.device, threads=1, engines=engines))
        loaded, seconds = memory_in_use(arguments.device), time.monotonic() - began
        _side_by_side(lambda backend=backend: _embed(backend, arguments.rows))  # type: ignore[misc]
        used = memory_in_use(arguments.device)
        backend.close()
        del backend
        give_back(arguments.device)
        after = memory_in_use(arguments.device)
        afters.append(after)
        growth = [
            f"{name} +{(found - before) / MB:.0f} MB" for name, found in (("loaded", loaded), ("used", used), ("unloaded", after))
        ]
        print(f"{turn + 1}: {', '.join(growth)} (load {seconds:.1f} s)")
    worst, growth = (max(afters) - before) / MB, (after - afters[0]) / MB
    print(f"worst after unload: +{worst:.0f} MB; from the first unload to the last: {growth:+.0f} MB")


def _embed(backend: Backend, rows: int) -> None:
    for _ in range(3):
        backend.embed(backend.tokenize([TEXT] * rows))


def _side_by_side(work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--rows", type=int, default=16, help="texts of some 200 tokens in a batch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engine", default="torch", choices=["auto", "torch", "onnx"])
    parser.add_argument("--model", help="a model's directory; without it all-MiniLM-L6-v2 from its package")
    return parser.parse_args()


if __name__ == "__main__":
    main()
