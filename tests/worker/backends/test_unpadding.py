"""No padding in the layers of a graph, the same vectors, and hands off what is not known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.support.models import SENTENCES
from tests.worker.backends.conftest import Build
from worker.backends.exports import GRAPH, TOKENIZER
from worker.backends.tokenizing import FastTokenizer
from worker.backends.unpadding import unpad

pytestmark = pytest.mark.usefixtures("frozen")

HIDDEN, HEADS, VOCABULARY = 8, 2, 20
Arrays = dict[str, np.ndarray[Any, Any]]


def run(model: Any, given: Arrays, outputs: Sequence[str] | None = None) -> list[np.ndarray[Any, Any]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray[Any, Any]] = session.run(outputs, given)
    return found


def a_graph(between: Sequence[NodeProto] = (), after: Sequence[NodeProto] = (), **attention: Any) -> Any:
    """Embeddings, two layers of attention with `between` from `mixed` to `spread`, the mean of each text's tokens."""
    numbers = np.random.default_rng(5)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(numbers.normal(size=shape).astype(np.float32) / 3, name)

    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.INT32),
        *_layer("first", "embedded", "mixed", attention),
        *(between or [helper.make_node("Identity", ["mixed"], ["unused"]), helper.make_node("Tanh", ["mixed"], ["spread"])]),
        *_layer("second", "spread", "last", attention),
        *after,
        helper.make_node("Cast", ["attention_mask"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["floats", "two"], ["column"]),
        helper.make_node("Mul", ["last", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["vectors"], keepdims=0),
    ]
    weights = [weight("table", VOCABULARY, HIDDEN), weight("scale", HIDDEN), weight("shift", HIDDEN)]
    for layer in ("first", "second"):
        weights += [weight(f"{layer}.qkv", HIDDEN, 3 * HIDDEN), weight(f"{layer}.bias", 3 * HIDDEN)]
        weights += [weight(f"{layer}.dense", HIDDEN, HIDDEN)]
    weights += [numpy_helper.from_array(np.array([number]), name) for name, number in (("one", 1), ("two", 2))]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]) for name in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["b", HIDDEN])]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _layer(name: str, given: str, made: str, attention: dict[str, Any]) -> list[NodeProto]:
    said = {"num_heads": HEADS, "domain": "com.microsoft", **attention}
    return [
        helper.make_node("Attention", [given, f"{name}.qkv", f"{name}.bias", "mask"], [f"{name}.seen"], **said),
        helper.make_node("MatMul", [f"{name}.seen", f"{name}.dense"], [f"{name}.out"]),
        helper.make_node(
            "SkipLayerNormalization", [f"{name}.out", given, "scale", "shift"], [made], domain="com.microsoft", epsilon=1e-5
        ),
    ]


def a_batch(masks: Sequence[Sequence[int]]) -> Arrays:
    mask = np.array(masks, np.int64)
    return {"input_ids": np.random.default_rng(6).integers(0, VOCABULARY, mask.shape), "attention_mask": mask}


UNPADDED = ["bert", "bert-without-prompt", "paraphrase-multilingual", "e5", "xlm-r-slow", "luke", "mpnet", "modernbert", "dense"]


@pytest.mark.parametrize("layout", UNPADDED)
def test_the_layers_of_an_export_get_the_texts_tokens_and_no_more(exported: Build, layout: str) -> None:
    model = onnx.load(str(exported(layout) / GRAPH))
    weights = {weight.name for weight in model.graph.initializer if len(weight.dims) == 2}
    inner = [node.output[0] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner)
    rows = FastTokenizer.read(exported(layout) / TOKENIZER)([*SENTENCES[:3], "a longer text, " * 9])
    mask = np.zeros((len(rows), max(len(row) for row in rows)), np.int64)
    for index, row in enumerate(rows):
        mask[index, : len(row)] = 1
    given = {entry.name: mask for entry in model.graph.input}  # any ids will do

    found = run(model, given, inner)

    # Query, key and value as one or as three, attention's own, and two of the feed-forward layer; in two layers. Behind the
    # layers there may be a product of a text's vector.
    assert len(found) >= 8
    assert {array.shape[0] for array in found} - {len(rows)} == {mask.sum()} != {mask.size}


@pytest.mark.parametrize(
    "masks",
    [
        [[1, 1, 1, 1]],
        [[1, 1, 1, 1], [1, 1, 1, 1]],
        [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]],
        [[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]],
        [[1, 0, 1, 0], [0, 1, 0, 0]],
        [[1]],
    ],
    ids=["alone", "no padding", "on the right", "on the left", "with holes", "one token"],
)
def test_the_vectors_are_the_same_wherever_the_padding_is(masks: list[list[int]]) -> None:
    before, after = a_graph(), a_graph()
    assert unpad(after)

    np.testing.assert_allclose(run(after, a_batch(masks))[0], run(before, a_batch(masks))[0], atol=1e-6)


def test_what_is_said_of_attention_is_kept() -> None:
    said = {"scale": 3.0, "mask_filter_value": -0.5}
    before, after, given = a_graph(**said), a_graph(**said), a_batch([[1, 1, 1], [1, 1, 0]])
    assert unpad(after)

    # With so weak a mask padding is seen: what it holds is another thing then, so only the full text is compared.
    np.testing.assert_allclose(run(after, given)[0][0], run(before, given)[0][0], atol=1e-5)
    plain = a_graph()
    assert np.abs(run(plain, given)[0][0] - run(before, given)[0][0]).max() > 1e-3


def test_a_tensor_that_somebody_else_looks_at_is_padded_for_him() -> None:
    def model() -> Any:
        made = a_graph(after=[helper.make_node("Identity", ["mixed"], ["seen"])])
        made.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, ["b", "t", HIDDEN]))
        return made

    before, after, given = model(), model(), a_batch([[1, 1, 1], [1, 1, 0]])
    assert unpad(after)

    expected, found = run(before, given, ["seen"])[0], run(after, given, ["seen"])[0]
    assert found.shape == expected.shape
    is_token = given["attention_mask"] == 1
    np.testing.assert_allclose(found[is_token], expected[is_token], atol=1e-6)


BETWEEN = {
    "across tokens": [helper.make_node("Softmax", ["mixed"], ["spread"], axis=1)],
    "with a tensor of each token": [helper.make_node("Add", ["mixed", "embedded"], ["spread"])],
    "with one of another text": [
        helper.make_node("ReduceMean", ["embedded"], ["over texts"], axes=[0]),
        helper.make_node("Add", ["mixed", "over texts"], ["spread"]),
    ],
    "a product with itself": [
        helper.make_node("Transpose", ["mixed"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["mixed", "turned"], ["square"]),
        helper.make_node("MatMul", ["square", "mixed"], ["spread"]),
    ],
    "the shape of a wider tensor": [
        helper.make_node("MatMul", ["mixed", "first.qkv"], ["wide"]),
        helper.make_node("Shape", ["wide"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros", "two"], ["nothing"]),
        helper.make_node("Sub", ["mixed", "nothing"], ["spread"]),
    ],
    "its shape": [
        helper.make_node("Shape", ["mixed"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Sub", ["mixed", "zeros"], ["spread"]),
    ],
    "a feed-forward layer in attention's place": [
        helper.make_node("Softmax", ["mixed"], ["looked"], axis=1),
        helper.make_node("MatMul", ["looked", "first.dense"], ["answered"]),
        helper.make_node("Add", ["answered", "shift"], ["shifted"]),
        helper.make_node("Add", ["mixed", "shifted"], ["spread"]),
    ],
    "a product that somebody else uses too": [
        helper.make_node("Softmax", ["mixed"], ["looked"], axis=1),
        helper.make_node("MatMul", ["looked", "first.dense"], ["answered"]),
        helper.make_node("Add", ["mixed", "answered"], ["sum"]),
        helper.make_node("Mul", ["sum", "answered"], ["spread"]),
    ],
}


# Behind it too little is known of the second layer's tokens: fewer than half of the products would be unpadded.
GIVEN_UP = {"a product that somebody else uses too"}


@pytest.mark.parametrize("name", BETWEEN)
def test_whatever_lies_between_the_layers_the_vectors_are_the_same(name: str) -> None:
    # Without padding: where it is looked across tokens, padding is what the layers of the graph before made of it.
    before, after, given = a_graph(BETWEEN[name]), a_graph(BETWEEN[name]), a_batch([[1, 1, 1], [1, 1, 1]])

    assert unpad(after) == (name not in GIVEN_UP)

    np.testing.assert_allclose(run(after, given)[0], run(before, given)[0], atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        a_graph(unidirectional=1),
        a_graph(do_rotary=1),
        helper.make_model(helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "none", [], [])),
    ],
    ids=["causal", "rotated", "without products"],
)
def test_what_is_not_known_stays_as_it_is(model: Any) -> None:
    before = model.SerializeToString()

    assert not unpad(model)

    assert model.SerializeToString() == before


def test_what_a_branch_looks_at_is_padded_for_it() -> None:
    def model() -> Any:
        chosen = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None)
        inner = helper.make_graph([helper.make_node("Identity", ["mixed"], ["chosen"])], "inner", [], [chosen])
        yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
        condition = helper.make_node("Constant", [], ["yes"], value=yes)
        branch = helper.make_node("If", ["yes"], ["branched"], then_branch=inner, else_branch=inner)
        # Nobody else looks at `mixed`.
        made = a_graph([helper.make_node("Tanh", ["mixed"], ["spread"])], after=[condition, branch])
        made.graph.output.append(helper.make_tensor_value_info("branched", TensorProto.FLOAT, None))
        return made

    before, after, given = model(), model(), a_batch([[1, 1, 1], [1, 1, 1]])
    assert unpad(after)

    np.testing.assert_allclose(run(after, given, ["branched"])[0], run(before, given, ["branched"])[0], atol=1e-6)


def test_what_is_not_finite_stays_with_its_own_text() -> None:
    model, given = a_graph(), a_batch([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    given["input_ids"][1] = VOCABULARY - 1
    given["input_ids"][[0, 2]] %= VOCABULARY - 1
    table = next(weight for weight in model.graph.initializer if weight.name == "table")
    numbers = numpy_helper.to_array(table).copy()
    numbers[-1] = np.nan
    table.CopyFrom(numpy_helper.from_array(numbers, "table"))
    assert unpad(model)

    assert np.isfinite(run(model, given)[0]).all(axis=1).tolist() == [True, False, True]
