"""Pooling of a sentence's words to one vector, and selection of the words to pool.

The methods are those of the biattentive classification network (McCann et al. 2017, section 4), the sentiment model of
the ELMo paper: mean, maximum, minimum and self-attention.
"""

import torch
from torch import Tensor, nn

from .configuration_elmo import ElmoConfig
from .initialization import starting_with


class ElmoPooling(nn.Module):
    """Masked pooling of words by each method of `config.pooling`, concatenated in that order.

    Args:
        config: its `pooling` names the methods.
        width: width of a word's vector.

    Attributes:
        attention: for `"attention"`, the linear layer that scores a word; words are weighted by the softmax of their
            scores. It has no bias, which the softmax would cancel.
        output_size: width of a pooled sentence, `width` for each method.
        ways: names of the methods. The installed package reads them from models of older saved code, too.
    """

    def __init__(self, config: ElmoConfig, width: int) -> None:
        super().__init__()
        self.ways = tuple(config.pooling)
        self.output_size = width * len(self.ways)
        if "attention" in self.ways:
            self.attention = starting_with(nn.Linear(width, 1, bias=False), "normal", width**-0.5)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Pool.

        Args:
            words: (batch, words, width), floating point; values outside `mask` are ignored.
            mask: (batch, words), bool: the words to pool.

        Returns:
            (batch, output_size) in the dtype of `words`; rows without words are zero and have zero gradients.
        """
        if words.shape[1] == 0:  # `amax` refuses an empty axis
            return words.new_zeros(words.shape[0], self.output_size)
        mask = mask.unsqueeze(-1)  # [batch, words, 1]
        words = words.masked_fill(~mask, 0.0)
        return torch.cat([getattr(self, f"_{method}")(words, mask) for method in self.ways], dim=-1)

    def _mean(self, words: Tensor, mask: Tensor) -> Tensor:
        # Half precision could overflow in the sum.
        total = words.sum(dim=1, dtype=torch.promote_types(words.dtype, torch.float32))
        return (total / mask.sum(dim=1).clamp(min=1)).to(words.dtype)

    def _max(self, words: Tensor, mask: Tensor) -> Tensor:
        largest = words.masked_fill(~mask, torch.finfo(words.dtype).min).amax(dim=1)
        return largest.masked_fill(~mask.any(dim=1), 0.0)

    def _min(self, words: Tensor, mask: Tensor) -> Tensor:
        return -self._max(-words, mask)

    def _attention(self, words: Tensor, mask: Tensor) -> Tensor:
        scores = self.attention(words)  # [batch, words, 1]
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        # Finite instead of -inf: a row without words would otherwise be NaN.
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=1).masked_fill(~mask, 0.0)
        return (weights * words).sum(dim=1).to(words.dtype)


def is_token(input_ids: Tensor, *tokens: int | list[int] | None) -> Tensor:
    """(batch, words), bool: true at the given special tokens, each an id, a list of ids, or `None`."""
    lists = [token if isinstance(token, list) else [token] for token in tokens]
    known = [token for several in lists for token in several if token is not None]
    # Not `torch.isin`, which exporters of graphs do not support.
    return (input_ids.unsqueeze(-1) == torch.tensor(known, dtype=torch.int64, device=input_ids.device)).any(dim=-1)


def segments_of(input_ids: Tensor | None, mask: Tensor, bos_token_id: int | None) -> Tensor:
    """Index of the sentence that each word belongs to, from 0: a pair is `<S> A </S> <S> B </S>`.

    A segment begins at `<S>` and ends before the next one, so boundaries belong to the sentence that they enclose.
    Words before the first `<S>` belong to segment 0, as do all words of a row without any.

    Args:
        input_ids: (batch, words), any integers outside `mask`; without them, all words belong to segment 0.
        mask: (batch, words), bool: true at words and boundaries; padding may be on either side.
        bos_token_id: the id of `<S>`, or `None` for a vocabulary without one.

    Returns:
        (batch, words), int64, on the mask's device; -1 outside `mask`.
    """
    segments = torch.zeros(mask.shape, dtype=torch.int64, device=mask.device)
    if input_ids is not None:
        begins = is_token(input_ids.to(mask.device), bos_token_id) & mask
        segments = (begins.cumsum(dim=1) - 1).clamp(min=0)
    return segments.masked_fill(~mask, -1)


def words_to_pool(sentence: Tensor, without_boundaries: Tensor) -> Tensor:
    """Words of a sentence to pool: all but the boundaries, or the boundaries of an empty sentence.

    The originals also remove the boundaries before a task reads a sentence (bilm-tf's `weight_layers`, AllenNLP's
    `Elmo`). An empty sentence keeps them, so that it differs from padding.

    Args:
        sentence: (batch, words), bool: the words of one sentence per row, boundaries included.
        without_boundaries: (batch, words), bool: all words except boundaries.

    Returns:
        (batch, words), bool.
    """
    words = sentence & without_boundaries
    return words | (sentence & ~words.any(dim=1, keepdim=True))
