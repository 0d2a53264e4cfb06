"""Makes an ONNX export of a model; a program of its own, so that torch's memory goes with it and serving goes on beside it.

Told by JSON on standard input what to make, it answers with a line of JSON: `{}` if the folder it was given is an export or
holds the reason why there is none, `{"failed": …}` for what may be better the next time.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import orjson
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from transformers.utils import logging as transformers_logging

from shared.models import ModelConfig, ModelSource
from worker.backends import LoadOptions
from worker.backends.exports import GRAPH, REFERENCE, TOKENIZER, Description, too_long
from worker.backends.onnxruntime import OnnxBackend
from worker.backends.reference import LONG_TOKENS, LONGEST_TOKENS, Disagreement, Reference
from worker.backends.sentence_transformers import Parts, SentenceTransformersBackend
from worker.backends.unpadding import unpad

# Of sentence-transformers: they are in the graph as they are. Others are not tried, since a trace might miss a branch.
_MODULES = {"Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "Dropout"}
# Whose attention ONNX Runtime's tools know how to fuse: 15 % less for a short text.
_FUSED = {"bert", "roberta", "xlm-roberta"}
_OPSET = 17
# One file of protobuf holds no more; the weights of larger graphs lie beside it.
_MAX_PROTOBUF_BYTES = 1_500_000_000
_PR_SET_PDEATHSIG = 1


class Refused(Exception):
    """This model is not for ONNX, now and the next time."""

    def __init__(self, reason: str, *, is_expected: bool = False) -> None:
        super().__init__(reason)
        self.is_expected = is_expected


class _Chain(torch.nn.Module):
    """From token ids to vectors, as SentenceTransformersBackend has it."""

    def __init__(self, parts: Parts, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self._modules_in_order = torch.nn.ModuleList(parts.model)
        self._truncate_dim = parts.model.truncate_dim
        self._normalizes = parts.normalizes
        self._inputs = inputs

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        features: dict[str, Any] = dict(zip(self._inputs, tensors, strict=True))
        pooling_mask = features.pop("pooling_mask", None)
        for index, module in enumerate(self._modules_in_order):
            features = module(features)
            if index == 0 and pooling_mask is not None:
                # Without the prompt's tokens. The pooling would take one length of prompt for the whole batch.
                features["attention_mask"] = pooling_mask
        vectors: torch.Tensor = features["sentence_embedding"]
        if self._truncate_dim is not None:
            vectors = vectors[:, : self._truncate_dim]
        if self._normalizes:
            vectors = torch.nn.functional.normalize(vectors, p=2.0, dim=-1)
        return vectors


def export(config: ModelConfig, source: ModelSource, folder: Path, threads: int) -> None:
    """Fill the folder. Raises Refused, OSError, and what a model that does not load makes the libraries raise."""
    # An entry's prompts are no part of the export: they may be wrong, or change.
    config = config.model_copy(update={"prompts": {}, "default_prompt_name": None})
    exact = config.model_copy(update={"dtype": "float32", "f16": False})
    backend = SentenceTransformersBackend(exact, source, LoadOptions(device="cpu", threads=threads))
    parts = backend.parts()
    network = _exportable(parts, config, backend.max_tokens)
    reference = Reference.of(backend, LONG_TOKENS)
    longest = Reference.of(backend, LONGEST_TOKENS) if backend.max_tokens > LONG_TOKENS else reference
    reference.write(folder / REFERENCE)
    assert parts.tokenizer is not None, "looked at above"
    parts.tokenizer.write(folder / TOKENIZER)
    description = Description(
        dimensions=backend.dimensions,
        max_tokens=backend.max_tokens,
        vocabulary=backend.vocabulary,
        dtype="int8" if config.dtype == "int8" else "float32",
        pad_id=parts.pad_id,
        pads_left=parts.pads_left,
        excludes_prompt=parts.excludes_prompt,
        prompts=dict(backend.prompts),
        default_prompt_name=backend.default_prompt_name,
    )
    description.write(folder)
    _trace(parts, folder / GRAPH)
    backend.close()
    if config.dtype == "int8":
        _quantize(folder / GRAPH)
    elif any(
        _is_better(change, config, folder, network.config, parts, longest, threads) for change in (_fuse_and_unpad, _fuse, _unpad)
    ):
        return
    try:
        _check(config, folder, longest, threads)
    except Disagreement as error:
        raise Refused(str(error)) from error


def _exportable(parts: Parts, config: ModelConfig, max_tokens: int) -> Any:
    """The network of the model. Raises Refused."""
    strange = [type(module).__name__ for module in parts.model if type(module).__name__ not in _MODULES]
    if strange:
        raise Refused(f"it has a module {strange[0]}")
    if parts.tokenizer is None:
        raise Refused("its tokenizer is one in Python")
    if not parts.inputs <= {"input_ids", "attention_mask", "token_type_ids"}:
        raise Refused(f"it takes {', '.join(sorted(parts.inputs))}")
    if (reason := too_long(config, max_tokens)) is not None:
        raise Refused(reason, is_expected=True)
    return parts.model[0].auto_model


def _trace(parts: Parts, graph: Path) -> None:
    """Write the graph. Raises Refused."""
    inputs = ("input_ids", "attention_mask", *(("token_type_ids",) if "token_type_ids" in parts.inputs else ()))
    inputs += ("pooling_mask",) if parts.excludes_prompt else ()
    # Two rows of different length, so that nothing of the trace takes the mask for a constant.
    mask = torch.ones((2, 9), dtype=torch.int64)
    mask[1, slice(0, 3) if parts.pads_left else slice(6, 9)] = 0
    ids = torch.where(mask == 1, torch.arange(9) % 5, parts.pad_id)
    given = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}
    # The plain spelling of attention: the one that ONNX Runtime runs fastest, and its tools can fuse.
    parts.model[0].auto_model.set_attn_implementation("eager")
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of constants in the trace: whether they are some, the vectors tell
            torch.onnx.export(
                _Chain(parts, inputs).eval(),
                tuple(given.get(name, mask) for name in inputs),
                str(graph),
                dynamo=False,
                opset_version=_OPSET,
                input_names=list(inputs),
                output_names=["vectors"],
                dynamic_axes={name: {0: "rows", 1: "tokens"} for name in inputs} | {"vectors": {0: "rows"}},
            )
    except OSError:
        raise
    except Exception as error:
        raise Refused(f"torch cannot export it: {type(error).__name__}: {str(error)[:200]}") from error
    _in_one_place(graph)


def _in_one_place(graph: Path) -> None:
    """Torch writes a large model's weights in a file each; one beside the graph is read sooner."""
    strewn = [file for file in graph.parent.iterdir() if file.suffix not in {".onnx", ".json", ".npz"}]
    if not strewn:
        return
    model = onnx.load(str(graph))
    for file in strewn:
        file.unlink()
    _save(model, graph)


def _save(model: Any, graph: Path) -> None:
    is_large = model.ByteSize() > _MAX_PROTOBUF_BYTES
    onnx.save_model(model, str(graph), save_as_external_data=is_large, location=f"{graph.name}.data" if is_large else None)


def _is_better(
    change: Callable[[Any, Any, Parts], Any],
    config: ModelConfig,
    folder: Path,
    network: Any,
    parts: Parts,
    longest: Reference,
    threads: int,
) -> bool:
    """Change the graph and keep it so if it still says the same; otherwise it is as before."""
    graph, plain = folder / GRAPH, folder / "plain.onnx"
    weights = graph.with_name(f"{graph.name}.data")
    if weights.exists():
        return False  # for a large model it matters less, and the tools would need its memory twice
    try:
        changed = change(graph, network, parts)
    except Exception:
        return False
    if changed is None:
        return False
    graph.rename(plain)
    try:
        _save(changed, graph)
        del changed
        _check(config, folder, longest, threads)
    except (Disagreement, OSError):
        # OSError: the folder may have room for one graph and not for two.
        weights.unlink(missing_ok=True)
        plain.replace(graph)
        return False
    plain.unlink()
    return True


def _fuse_and_unpad(graph: Path, network: Any, parts: Parts) -> Any:
    """The graph with each layer's attention as one operation and no padding around it; None if it has another, or pads left."""
    found = None if parts.pads_left else _fuse(graph, network, parts)
    return found if found is not None and unpad(found) else None


def _fuse(graph: Path, network: Any, _parts: Parts) -> Any:
    """The graph with each layer's attention as one operation; None if it has another."""
    if network.model_type not in _FUSED:
        return None
    options = FusionOptions("bert")
    # One operation for a sum and its norm goes number by number: the three of them take a quarter of its time.
    options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = False
    try:
        found = optimizer.optimize_model(
            str(graph),
            model_type="bert",
            num_heads=network.num_attention_heads,
            hidden_size=network.hidden_size,
            optimization_options=options,
            opt_level=0,
        )
    except Exception:
        return None
    if found.get_fused_operator_statistics().get("Attention") != network.num_hidden_layers:
        return None
    return found.model


def _unpad(graph: Path, _network: Any, parts: Parts) -> Any:
    """The graph without padding around attention; None if too little is known of it."""
    if parts.pads_left:
        return None
    model = onnx.load(str(graph))
    return model if unpad(model) else None


def _quantize(graph: Path) -> None:
    """Weights and what is multiplied with them in 8 bits; unsigned both, since AVX2 saturates with signs.

    A scale for each column of the weights: all-MiniLM-L6-v2 agrees to 0.991 at worst so, and to 0.945 with one scale for all,
    which is 2 % quicker.
    """
    wide, weights = graph.with_name("wide.onnx"), graph.with_name(f"{graph.name}.data")
    is_large = weights.exists()
    if is_large:
        # Under another name, or the narrow weights would be written behind them.
        model = onnx.load(str(graph))
        graph.unlink()
        weights.unlink()
        _save(model, wide)
        del model
    else:
        graph.rename(wide)
    quantize_dynamic(
        str(wide),
        str(graph),
        weight_type=QuantType.QUInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul"],
        use_external_data_format=is_large,
    )
    for file in graph.parent.glob(f"{wide.name}*"):
        file.unlink()


def _check(config: ModelConfig, folder: Path, longest: Reference, threads: int) -> None:
    """As a worker will load it, and with texts of full length. Raises Disagreement."""
    try:
        made = OnnxBackend(config, folder, threads=threads)
        made.check(folder)
        longest.check(made)
    except (Disagreement, OSError):
        raise
    except Exception as error:
        raise Disagreement(f"ONNX Runtime cannot run it: {type(error).__name__}: {str(error)[:200]}") from error


def main() -> None:
    """One export."""
    asked = orjson.loads(sys.stdin.buffer.read())
    _die_with(asked["parent"])
    os.nice(10)  # questions are answered meanwhile
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # Whatever a library prints is no answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    folder = Path(asked["folder"])
    source = ModelSource(directory=Path(asked["directory"]))
    answer = {}
    try:
        export(ModelConfig.model_validate(asked["config"]), source, folder, asked["threads"])
    except Refused as error:
        for file in folder.iterdir():
            file.unlink()
        Description(refused=str(error), is_expected=error.is_expected).write(folder)
    except Exception as error:
        answer["failed"] = f"{type(error).__name__}: {str(error)[:300]}"
    answers.buffer.write(orjson.dumps(answer) + b"\n")
    answers.flush()


def _die_with(parent: int) -> None:
    """Nobody waits for it any longer when the worker is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


if __name__ == "__main__":
    main()
