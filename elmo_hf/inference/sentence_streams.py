"""The Transformer ELMo over what its two directions read of the same sentences in pretraining."""

from typing import Any

import torch
from torch import Tensor


def read_streams(encoder: Any, forward: Tensor, backward: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The top layer over streams of sentences.

    The forward direction reads all but a sentence's last word, the backward direction all but its first, from the end:
    their positions in the sentence differ by one.

    Args:
        encoder: an `ElmoTransformerEncoder` of any copy of its code; one that has a way of its own, as those saved
            before this function, is asked for it.
        forward, backward: word vectors (rows, steps, P), each in its own reading order.
        real: (rows, steps), bool: words of either direction, from the first step on, and padding behind them.

    Returns:
        forward, backward: (rows, steps, P), in reading order, zero at padding.
    """
    if hasattr(encoder, "read_streams"):
        return encoder.read_streams(forward, backward, real)
    lengths = real.sum(dim=1, keepdim=True)  # [rows, 1]
    longest = int(lengths.max()) + 1
    step = torch.arange(real.shape[1], device=real.device)
    places = (step.expand(real.shape).where(real, 0), (lengths - step).clamp(min=0))
    forward, backward = (
        encoder.with_positions(words, place, longest) for words, place in zip((forward, backward), places, strict=True)
    )
    return encoder.run_layers(forward, backward, real)[-1]
