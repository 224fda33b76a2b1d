"""Transformer ELMo over the inputs of both directions in pretraining."""

from typing import Any

import torch
from torch import Tensor


def read_streams(encoder: Any, forward: Tensor, backward: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the top layer for a batch of sentences, with separate inputs for the two directions.

    The forward direction reads all words of a sentence but the last, the backward direction all but the first, from the
    end. Positions in the sentence therefore differ between the directions.

    Args:
        encoder: an `ElmoTransformerEncoder` of any copy of its code. Older copies have a `read_streams` method of their
            own, which is used instead.
        forward, backward: word vectors (rows, steps, P), each in its own reading order.
        real: (rows, steps), bool: true for words, false for padding, which follows the words.

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
