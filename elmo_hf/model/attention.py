"""Attention over the words of a sentence, without weights of its own."""

import torch
from torch import Tensor


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis, restricted to the scores where `mask` is true; zeros elsewhere."""
    # Finite instead of -inf: a row that is masked entirely would otherwise be NaN.
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1).masked_fill(~mask, 0.0)


def biattention(words: Tensor, mask: Tensor) -> Tensor:
    """Dot-product attention of a sentence to itself: [x; x - y; x * y] with y = softmax(x x^T) x.

    Input of the integrator in the biattentive classification network (McCann et al. 2017, section 4), with both of its
    texts the same sentence.

    Args:
        words: (batch, words, width).
        mask: (batch, words), bool: the words to attend to.

    Returns:
        (batch, words, 3 * width).
    """
    attended = masked_softmax(words @ words.transpose(1, 2), mask.unsqueeze(1)).to(words.dtype) @ words
    return torch.cat([words, words - attended, words * attended], dim=-1)
