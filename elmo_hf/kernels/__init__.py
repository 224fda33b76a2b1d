"""Faster implementations of the operators that `elmo_hf/model/operators.py` defines.

A kernel sees tensors and flags, never modules, and imports nothing of this package but its siblings: copies of the
model that travel with checkpoints use it too. It returns its result, or a short text that says why it does not serve.
"""

from collections.abc import Callable
from typing import Any

# Of the interface; a model's copy that knows another version does not ask.
VERSION = 1


def ways(operator: str) -> list[tuple[str, Callable[..., Any]]]:
    """Implementations of an operator in the order of asking, each with the name of its kind: torch, native or gpu."""
    from . import training
    from .cpu import character_tables, inference, int8, onednn
    from .gpu import characters
    from .gpu import lstm as gpu

    found: dict[str, list[tuple[str, Callable[..., Any]]]] = {
        "bidirectional_lstm": [("gpu", gpu.bidirectional_lstm)],
        "reads_padding": [("gpu", gpu.serves_padded)],
        "projected_lstm": [
            ("torch", training.projected_lstm),
            ("native", inference.native_projected_lstm),
            ("torch", inference.torch_projected_lstm),
        ],
        "linear": [("torch", onednn.packed_linear)],
        "int8_linear": [("torch", int8.int8_linear)],
        "character_maxima": [("torch", character_tables.character_maxima), ("gpu", characters.character_maxima)],
    }
    return found[operator]


def signed_levels() -> int:
    """Largest absolute integer that int8 inputs with negative values are rounded to on this CPU."""
    from .cpu.int8 import signed_levels

    return signed_levels()
