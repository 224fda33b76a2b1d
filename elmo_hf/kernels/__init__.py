"""Faster implementations of the operators that `elmo_hf/model/operators.py` defines.

Kernels take tensors and flags, never modules, and import only their siblings, because copies of the model that travel
with checkpoints call them too. A kernel returns its result, or a short text that says why it cannot be used.

Sibling imports are relative: a model's copy loads this folder under another name, without the package above it.
"""

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

from .opaque import register
from .prepared_weights import keeper, release
from .word_cache import kept_vectors

__all__ = ["VERSION", "ask", "keeper", "kept_vectors", "register", "release", "serving", "signed_levels", "ways"]

# Fixed name, because a checkpoint's code loads this folder under another one.
logger = logging.getLogger("elmo_hf.kernels")

# Version of this interface. A copy of the model that knows another version does not use these kernels.
VERSION = 2
CHOICES = ("reference", "torch", "native", "gpu")


def ask(operator: str, *args: Any, **keywords: Any) -> Any:
    """Return the result of the first implementation of an operator that supports the arguments; `None` without one.

    The environment variable `ELMO_HF_KERNELS` selects one of `CHOICES`: `reference` (none of these), `torch` (PyTorch),
    `native` (compiled C) or `gpu` (Triton).

    Raises:
        ValueError: an unknown choice.
    """
    declined: list[tuple[str, str | None]] = []
    for name, way in _chosen_ways(operator, os.environ.get("ELMO_HF_KERNELS", "")):
        result = way(*args, **keywords)
        if result is not None and not isinstance(result, str):
            if logger.isEnabledFor(logging.DEBUG):
                _log_once(operator, name, tuple(declined))
            return result
        declined.append((name, result))
    if logger.isEnabledFor(logging.DEBUG):
        _log_once(operator, "reference", tuple(declined))
    return None


@functools.cache
def _chosen_ways(operator: str, choice: str) -> list[tuple[str, Callable[..., Any]]]:
    if choice not in ("", *CHOICES):
        raise ValueError(f"ELMO_HF_KERNELS={choice!r}: expected one of {', '.join(CHOICES)}, or unset")
    if choice == "reference":
        return []
    return [(name, way) for name, way in ways(operator) if choice in ("", name)]


@functools.cache
def _log_once(operator: str, chosen: str, declined: tuple[tuple[str, str | None], ...]) -> None:
    reasons = "; ".join(f"{name}: {reason or 'not supported'}" for name, reason in declined)
    logger.debug("%s: %s%s", operator, chosen, f" (declined: {reasons})" if reasons else "")


def ways(operator: str) -> list[tuple[str, Callable[..., Any]]]:
    """Implementations of an operator in the order they are tried, each with its kind: torch, native or gpu."""
    from .cpu.character_tables import character_maxima
    from .cpu.inference import native_projected_lstm, torch_projected_lstm
    from .cpu.int8 import int8_linear
    from .cpu.onednn import packed_linear
    from .gpu.characters import character_maxima as gpu_character_maxima
    from .gpu.lstm import bidirectional_lstm, serves_padded
    from .training import projected_lstm

    found: dict[str, list[tuple[str, Callable[..., Any]]]] = {
        "bidirectional_lstm": [("gpu", bidirectional_lstm)],
        "reads_padding": [("gpu", serves_padded)],
        "projected_lstm": [
            ("native", functools.partial(projected_lstm, native=True)),
            ("torch", projected_lstm),
            ("native", native_projected_lstm),
            ("torch", torch_projected_lstm),
        ],
        "linear": [("torch", packed_linear)],
        "int8_linear": [("torch", int8_linear)],
        "character_maxima": [
            ("native", functools.partial(character_maxima, native=True)),
            ("torch", character_maxima),
            ("gpu", gpu_character_maxima),
        ],
    }
    return found[operator]


def signed_levels() -> int:
    """Largest absolute integer of quantized inputs with negative values on this CPU."""
    from .cpu.int8 import signed_levels

    return signed_levels()


def serving() -> dict[str, str]:
    """Readable descriptions of the faster implementations available on this machine, by kind."""
    import torch

    from .cpu.builder import origin
    from .cpu.onednn import packing_works
    from .gpu.availability import has_kernels, mode

    gpu = "no GPU"
    if torch.cuda.is_available():
        serves = has_kernels(torch.device("cuda", 0), torch.float32)
        gpu = f"Triton ({'without' if mode() == 'eager' else 'with'} CUDA graphs)" if serves else "PyTorch's operators"
    return {
        "CPU kernels": origin() or "none: no C compiler, or ELMO_HF_NATIVE=0; PyTorch's operators, more slowly",
        "oneDNN": "packed weights" if packing_works(torch.float32) else "none",
        "GPU kernels": gpu,
    }
