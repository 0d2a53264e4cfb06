"""Exports of large models, whose weights lie beside the graph; that a model is large is a matter of a constant here."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from shared.models import ModelConfig, ModelSource, Parameters
from tests.support.models import copy_of
from tests.worker.backends.conftest import Build
from worker.backends import exporting
from worker.backends.exports import GRAPH, REFERENCE, TOKENIZER, Description
from worker.backends.onnxruntime import OnnxBackend
from worker.backends.reference import LEAST_AGREEMENT

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


def test_a_large_model_is_quantized_and_nothing_of_the_wide_one_is_left(strewn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEAST_AGREEMENT, "int8", 0.9)  # its weights are random
    exporting._in_one_place(strewn / GRAPH)
    before = (strewn / f"{GRAPH}.data").stat().st_size

    exporting._quantize(strewn / GRAPH)

    assert {path.name for path in strewn.iterdir()} <= {GRAPH, f"{GRAPH}.data", *KEPT}
    assert (strewn / f"{GRAPH}.data").stat().st_size < before
    replace(Description.read(strewn), dtype="int8").write(strewn)
    assert 0.9 < opened(strewn).check(strewn) < 0.99999


def _turned(model: Any) -> bool:
    """Another vector for each text."""
    last = next(node for node in model.graph.node if "vectors" in node.output)
    last.output[:] = ["before", *last.output[1:]]
    model.graph.node.append(helper.make_node("Neg", ["before"], ["vectors"]))
    return True


def _unrunnable(model: Any) -> bool:
    model.graph.node[-1].input[0] = "nobody made it"
    return True


def _raising(model: Any) -> bool:
    raise KeyError("an unforeseen graph")


@pytest.mark.parametrize("unpad", [_turned, _unrunnable, _raising])
@pytest.mark.parametrize("layout", ["bert", "mpnet"])
@pytest.mark.parametrize("most_bytes", [10**9, 4000])
def test_a_change_that_says_something_else_is_not_made(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, unpad: Any, most_bytes: int
) -> None:
    monkeypatch.setattr(exporting, "unpad", unpad)
    monkeypatch.setattr(exporting, "_in_one_place", lambda graph: None)  # the graph of the trace is one file
    monkeypatch.setattr(exporting, "_MAX_PROTOBUF_BYTES", most_bytes)

    config = ModelConfig(name="m", parameters=Parameters(model=str(build(layout))))
    exporting.export(config, ModelSource(directory=build(layout)), tmp_path, threads=1)

    fused = layout == "bert"  # and not unpadded, which was the first to be tried
    assert any(node.op_type == "Attention" for node in onnx.load(str(tmp_path / GRAPH)).graph.node) == fused
    weights = {f"{GRAPH}.data"} if fused and most_bytes == 4000 else set()
    assert {path.name for path in tmp_path.iterdir()} == {GRAPH, *weights, *KEPT}
    assert opened(tmp_path).check(tmp_path) > 0.9999


def test_a_folder_with_room_for_one_graph_keeps_the_plain_one(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(model: Any, graph: Path) -> None:
        graph.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(exporting, "_save", full)
    config = ModelConfig(name="m", parameters=Parameters(model=str(build("bert"))))
    exporting.export(config, ModelSource(directory=build("bert")), tmp_path, threads=1)

    assert {path.name for path in tmp_path.iterdir()} == {GRAPH, *KEPT}
    assert opened(tmp_path).check(tmp_path) > 0.9999
