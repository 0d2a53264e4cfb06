"""Exports of large models, whose weights lie beside the graph; that a model is large is a matter of a constant here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from shared.models import ModelConfig, Parameters
from tests.support.models import copy_of
from tests.worker.backends.conftest import Build
from worker.backends import exporting
from worker.backends.exports import GRAPH, REFERENCE, TOKENIZER, Description
from worker.backends.onnxruntime import OnnxBackend

pytestmark = pytest.mark.usefixtures("frozen")

KEPT = {TOKENIZER, REFERENCE, "engine.json"}


@pytest.fixture
def strewn(exported: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An export as torch leaves it where the weights are more than one file of protobuf holds: each in a file."""
    monkeypatch.setattr(exporting, "_MAX_PROTOBUF_BYTES", 1000)
    folder = copy_of(exported("mpnet"), tmp_path / "large")
    model = onnx.load(str(folder / GRAPH))
    (folder / GRAPH).unlink()
    onnx.save_model(
        model,
        str(folder / GRAPH),
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=0,
        convert_attribute=False,
    )
    assert len(list(folder.iterdir())) > 10
    return folder


def opened(folder: Path) -> OnnxBackend:
    return OnnxBackend(ModelConfig(name="m", parameters=Parameters(model="m")), folder, threads=1)


def test_the_weights_of_a_large_model_lie_in_one_file_beside_its_graph(strewn: Path) -> None:
    exporting._in_one_place(strewn / GRAPH)

    assert {path.name for path in strewn.iterdir()} == {GRAPH, f"{GRAPH}.data", *KEPT}
    moved = strewn.rename(strewn.with_name("moved"))
    assert opened(moved).check(moved) > 0.9999


def test_a_large_model_is_quantized_and_nothing_of_the_wide_one_is_left(strewn: Path) -> None:
    exporting._in_one_place(strewn / GRAPH)
    before = (strewn / f"{GRAPH}.data").stat().st_size

    exporting._quantize(strewn / GRAPH)

    assert {path.name for path in strewn.iterdir()} <= {GRAPH, f"{GRAPH}.data", *KEPT}
    assert (strewn / f"{GRAPH}.data").stat().st_size < before
    replace(Description.read(strewn), dtype="int8").write(strewn)
    assert 0.98 < opened(strewn).check(strewn) < 0.99999
