from __future__ import annotations

import pytest

from shared.hub.choosing import needed, needed_code


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin", "config.json"], ["config.json", "model.safetensors"]),
        (["pytorch_model.bin", "config.json", "training_args.bin"], ["config.json", "pytorch_model.bin"]),
        (["model.safetensors", "model.fp16.safetensors"], ["model.safetensors"]),
        (["custom.safetensors"], ["custom.safetensors"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json", "a.bin"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
        ),
        (["model.onnx", "model.gguf", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "logo.png", ".gitattributes"], []),
        (["onnx/model.onnx", "onnx/config.json", "openvino/model.bin", "checkpoint-1/model.safetensors"], []),
        (["2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"], ["2_Dense/model.safetensors"]),
        (["query_0_Transformer/model.safetensors"], ["query_0_Transformer/model.safetensors"]),
        (
            ["sentencepiece.bpe.model", "entity_vocab.json", "merges.txt", "modeling.py", "chat.jinja"],
            ["chat.jinja", "entity_vocab.json", "merges.txt", "modeling.py", "sentencepiece.bpe.model"],
        ),
    ],
)
def test_one_copy_of_the_weights_and_what_is_read_beside_it(names: list[str], expected: list[str]) -> None:
    assert needed(names) == expected


def test_folders_that_modules_json_names_are_needed() -> None:
    assert needed(["transformer/model.safetensors", "other/model.safetensors"], ["", "transformer"]) == [
        "transformer/model.safetensors"
    ]


def test_of_a_repository_that_lends_its_code_only_the_code_is_needed() -> None:
    assert needed_code(["modeling.py", "config.json", "model.safetensors", "tests/a.py"]) == ["config.json", "modeling.py"]
