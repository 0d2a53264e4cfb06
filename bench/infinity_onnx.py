"""Makes the folder that infinity's ONNX engine serves; runs in infinity's virtual environment, whose versions are not ours.

VENV/bin/python bench/infinity_onnx.py MODEL TARGET

Three things that the engine does not do by itself: export (optimum 1.24 cannot with torch 2.13, whose default exporter wants
onnxscript), pool as the model does (its caller says --pooling-method mean), and cut where sentence-transformers cuts: it reads
the configuration's number of positions, 512, and not the model's 256.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer


def main(source: Path, target: Path) -> None:
    """A copy of the model with model.onnx in it, there as a whole or not at all."""
    model = AutoModel.from_pretrained(str(source), attn_implementation="eager").eval()
    tokens = dict(AutoTokenizer.from_pretrained(str(source))(["one text", "and another one"], padding=True, return_tensors="pt"))
    names = ("input_ids", "attention_mask", "token_type_ids")
    axes = {0: "batch", 1: "sequence"}
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        made = Path(directory) / "model"
        shutil.copytree(source, made, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
        torch.onnx.export(
            model,
            tuple(tokens[name] for name in names),
            str(made / "model.onnx"),
            input_names=list(names),
            output_names=["last_hidden_state", "pooler_output"],
            dynamic_axes=dict.fromkeys((*names, "last_hidden_state"), axes) | {"pooler_output": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
        config = json.loads((made / "config.json").read_text())
        config["max_position_embeddings"] = json.loads((made / "sentence_bert_config.json").read_text())["max_seq_length"]
        (made / "config.json").write_text(json.dumps(config))
        made.rename(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
