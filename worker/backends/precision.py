"""The type that a model is computed in: what its entry asks for where the device can, else what is said of it once a load."""

from __future__ import annotations

from shared.logs import get_logger
from shared.models import ModelConfig

logger = get_logger(__name__)

_HALF = ("float16", "bfloat16")


def choose(config: ModelConfig, device: str, *, is_checked: bool = False) -> tuple[str, str | None]:
    """Torch's name of the type, and why it is not what the entry asks for; None if it is.

    On a GPU an entry that says nothing gets half precision, where the caller checks it (`is_checked`): float16 before bfloat16,
    for three more bits of a number at the same speed. A model that leaves its range is found at load.
    """
    is_cuda, wanted, reason = device.startswith("cuda"), asked(config), None
    if wanted == "int8":
        wanted, reason = "auto", "torch has none that is exact enough; ONNX has, on a CPU"
    if wanted == "auto":
        wanted = "float16" if is_cuda and is_checked else "float32"
    if wanted in _HALF and device == "cpu":
        return "float32", "it is slower on a CPU, and less exact"
    if wanted == "bfloat16" and is_cuda and not _has_bfloat16():
        return "float16", "this GPU has none"
    return wanted, reason


def asked(config: ModelConfig) -> str:
    """What the entry says; `f16` is LocalAI's way to say it."""
    return "float16" if config.dtype == "auto" and config.f16 else config.dtype


def warn(config: ModelConfig, dtype: str, reason: str) -> None:
    """The entry asks for another type than the one that it gets."""
    logger.warning("dtype left out", model=config.name, asked=asked(config), dtype=dtype, reason=reason)


def _has_bfloat16() -> bool:
    import torch

    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
