"""Attention over the words of a sentence, without weights of its own."""

import torch
from torch import Tensor


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis of the scores that `mask` marks, zeros elsewhere and where it marks none."""
    # A finite number, so that nothing to weigh gives weights to be set to zero and not NaN.
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1).masked_fill(~mask, 0.0)


def biattention(words: Tensor, mask: Tensor) -> Tensor:
    """Every word beside what the sentence's words are to it: [x; x - y; x * y] with y = softmax(x x^T) x.

    The attention of the biattentive classification network (McCann et al. 2017, section 4) of a text with itself, by
    plain dot products, and the input of its integrator.

    Args:
        words: (batch, words, width).
        mask: (batch, words), bool: the words to attend to.

    Returns:
        (batch, words, 3 * width).
    """
    attended = masked_softmax(words @ words.transpose(1, 2), mask.unsqueeze(1)).to(words.dtype) @ words
    return torch.cat([words, words - attended, words * attended], dim=-1)
