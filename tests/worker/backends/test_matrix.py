"""Every layout in every engine, alone, in any batch and through both lanes: the vectors of plain `SentenceTransformer.encode`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from shared.models import ModelConfig, ModelRegistry, ModelSource, Parameters
from shared.settings import Settings
from tests.support.models import BUILDERS, SENTENCES, luke_vectors
from tests.worker.backends.conftest import Build
from worker.backends import Backend, LoadOptions
from worker.backends.onnxruntime import OnnxBackend
from worker.backends.sentence_transformers import SentenceTransformersBackend
from worker.engine import EmbedRequest, Engine

pytestmark = pytest.mark.usefixtures("frozen")

ENGINES = ("torch", "onnx")
CELLS = [(layout, engine) for layout in sorted(BUILDERS) for engine in ENGINES]
PROMPT = "query: "
TEXTS = (
    *SENTENCES[:6],
    "a",
    "  white space \n\t around  ",
    "👩‍👩‍👧 ＦＵＬＬ　ｗｉｄｔｈ é ﬁ ①",
    "長い文章です。" * 50,
    "long text " * 200,
    "word" * 300,
)
Cell = tuple[str, str]


@pytest.fixture(scope="module")
def backend_of(build: Build, exported: Build) -> Iterator[Callable[[Cell], Backend]]:
    """The loaded model of a cell, once."""
    made: dict[Cell, Backend] = {}

    def load(cell: Cell) -> Backend:
        if cell not in made:
            layout, engine = cell
            config = ModelConfig(name=layout, parameters=Parameters(model=str(build(layout))))
            source, options = ModelSource(directory=build(layout)), LoadOptions(device="cpu", threads=1)
            torch_or_onnx = SentenceTransformersBackend(config, source, options) if engine == "torch" else None
            made[cell] = torch_or_onnx or OnnxBackend(config, exported(layout), threads=1)
        return made[cell]

    yield load
    for backend in made.values():
        backend.close()


@pytest.fixture(scope="module")
def expected(build: Build) -> Callable[[str, str], np.ndarray]:
    """The right vectors of TEXTS, one text at a time, by layout and prompt; encode is wrong for LUKE."""

    @cache
    def vectors(layout: str, prompt: str) -> np.ndarray:
        if layout.startswith("luke"):
            return luke_vectors(build(layout), [prompt + text for text in TEXTS])
        model = SentenceTransformer(str(build(layout)), device="cpu")
        return np.concatenate([model.encode([text], prompt=prompt, show_progress_bar=False) for text in TEXTS])

    return vectors


def assert_same(found: np.ndarray, right: np.ndarray) -> None:
    np.testing.assert_allclose(found, right, atol=1e-5 * max(1.0, np.abs(right).max()))
    cosines = (found * right).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(right, axis=1)
    assert cosines.min() > 0.9999


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
@pytest.mark.parametrize("prompt", ["", PROMPT])
def test_the_vectors_are_encodes_in_any_batch(
    cell: Cell, prompt: str, backend_of: Callable[[Cell], Backend], expected: Callable[[str, str], np.ndarray]
) -> None:
    backend, right = backend_of(cell), expected(cell[0], prompt)
    rows = backend.tokenize(TEXTS, prompt)
    order = np.random.default_rng(3).permutation(len(TEXTS))

    assert_same(np.concatenate([backend.embed([row]) for row in rows]), right)
    assert_same(backend.embed(rows), right)
    for begin in range(0, len(TEXTS), 5):
        batch = order[begin : begin + 5]
        assert_same(backend.embed([rows[index] for index in batch]), right[batch])


@pytest.mark.parametrize("layout", sorted(BUILDERS))
def test_both_engines_read_the_same_and_say_the_same(layout: str, backend_of: Callable[[Cell], Backend]) -> None:
    torch, onnx = backend_of((layout, "torch")), backend_of((layout, "onnx"))

    for prompt in ("", PROMPT):
        for ours, theirs in zip(onnx.tokenize(TEXTS, prompt), torch.tokenize(TEXTS, prompt), strict=True):
            assert ours.ids.tolist() == theirs.ids.tolist()
            assert (ours.truncated, ours.prompt_tokens) == (theirs.truncated, theirs.prompt_tokens)
    assert onnx.wrap([3, 4, 5]).ids.tolist() == torch.wrap([3, 4, 5]).ids.tolist()
    said = [
        (backend.dimensions, backend.max_tokens, backend.vocabulary, backend.prompts, backend.default_prompt_name)
        for backend in (onnx, torch)
    ]
    assert said[0] == said[1]
    assert onnx.split(TEXTS[1], special=True) == torch.split(TEXTS[1], special=True)
    assert onnx.join([5, 6, 7], special=False) == torch.join([5, 6, 7], special=False)


def test_prompts_of_different_length_may_share_a_batch_in_onnx(backend_of: Callable[[Cell], Backend], build: Build) -> None:
    backend = backend_of(("bert-without-prompt", "onnx"))
    reference = SentenceTransformer(str(build("bert-without-prompt")), device="cpu")
    prompts = ["", PROMPT, "Represent the question: "]

    rows = [backend.tokenize([SENTENCES[7]], prompt)[0] for prompt in prompts]

    assert_same(backend.embed(rows), np.stack([reference.encode(SENTENCES[7], prompt=prompt) for prompt in prompts]))


def test_both_lanes_give_encodes_vectors_at_once(
    tmp_path: Path, backend_of: Callable[[Cell], Backend], expected: Callable[[str, str], np.ndarray]
) -> None:
    """All models in one engine, a question and a shard for each, all waiting at the same time."""
    cells = {"-".join(cell): cell for cell in CELLS}
    # `torch`, so that the engine exports nothing itself: what it is to load was made already.
    entries = {name: ModelConfig(name=name, engine="torch", parameters=Parameters(model=str(tmp_path))) for name in cells}

    class Kept:
        """The engine closes what it loads; these are for other tests too."""

        def __init__(self, backend: Backend) -> None:
            self._backend = backend

        def __getattr__(self, name: str) -> object:
            return getattr(self._backend, name)

        def close(self) -> None:
            pass

    engine = Engine(
        Settings(data_dir=tmp_path, max_batch_tokens=300, device="cpu", streams=2),
        ModelRegistry(entries),
        load=lambda config, source, options: Kept(backend_of(cells[config.name])),  # type: ignore[arg-type, return-value]
    )
    engine.start()
    try:
        waiting = {
            (name, lane): engine.submit(EmbedRequest(model=entries[name], texts=list(TEXTS), lane=lane))
            for name in cells
            for lane in ("bulk", "interactive")
        }
        for (name, _), future in waiting.items():
            answer = future.result(60)
            assert not answer.errors
            assert_same(answer.vectors, expected(cells[name][0], ""))
    finally:
        engine.stop()
