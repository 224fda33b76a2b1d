"""One vector for the words of a sentence, and which words those are.

The ways of pooling are those of the biattentive classification network (McCann et al. 2017, section 4), which is also
the ELMo paper's sentiment model: mean, maximum, minimum and self-attention.
"""

import torch
from torch import Tensor, nn

from .configuration_elmo import ElmoConfig
from .initialization import starting_with


class ElmoPooling(nn.Module):
    """Masked pooling of words, each way of `config.pooling` in turn, concatenated in that order.

    Args:
        config: its `pooling` names the ways.
        width: of a word's vector.

    Attributes:
        attention: for `"attention"`, the linear map to a word's score; the words' weights are the softmax of their
            scores. It has no bias, which a softmax cancels.
        output_size: width of a pooled sentence, `width` for each way.
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
            words: (batch, words, width), floating; values outside of `mask` are not read.
            mask: (batch, words), bool: the words to pool.

        Returns:
            (batch, output_size) in the type of `words`; zeros in rows without words, whose gradients are zeros too.
        """
        if words.shape[1] == 0:  # nothing to take a maximum of
            return words.new_zeros(words.shape[0], self.output_size)
        mask = mask.unsqueeze(-1)  # [batch, words, 1]
        words = words.masked_fill(~mask, 0.0)
        return torch.cat([getattr(self, f"_{way}")(words, mask) for way in self.ways], dim=-1)

    def _mean(self, words: Tensor, mask: Tensor) -> Tensor:
        # Half precision could overflow in the sum and not even count that far.
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
        # A finite number, so that a row without words has weights to be set to zero and not NaN.
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=1).masked_fill(~mask, 0.0)
        return (weights * words).sum(dim=1).to(words.dtype)


def is_token(input_ids: Tensor, *tokens: int | list[int] | None) -> Tensor:
    """(batch, words), bool: where a special token stands; a configuration may have none or several of each."""
    lists = [token if isinstance(token, list) else [token] for token in tokens]
    known = [token for several in lists for token in several if token is not None]
    # Compared one by one: `torch.isin` searches a sorted list, which no exporter of graphs knows.
    return (input_ids.unsqueeze(-1) == torch.tensor(known, dtype=torch.int64, device=input_ids.device)).any(dim=-1)


def segments_of(input_ids: Tensor | None, mask: Tensor, bos_token_id: int | None) -> Tensor:
    """Which sentence of its row every word belongs to, from 0: a pair is `<S> A </S> <S> B </S>`.

    A segment begins at each beginning of a sentence and ends before the next one, so that boundaries belong to the
    sentence that they enclose. Words before the first beginning are of segment 0, as is all of a row without any.

    Args:
        input_ids: (batch, words), any integers outside of `mask`; without them everything is segment 0.
        mask: (batch, words), bool: the real words; padding may be on either side.
        bos_token_id: the id of `<S>`, or `None` for a vocabulary without one.

    Returns:
        (batch, words), int64, on the mask's device; -1 outside of `mask`.
    """
    segments = torch.zeros(mask.shape, dtype=torch.int64, device=mask.device)
    if input_ids is not None:
        begins = is_token(input_ids.to(mask.device), bos_token_id) & mask
        segments = (begins.cumsum(dim=1) - 1).clamp(min=0)
    return segments.masked_fill(~mask, -1)


def words_to_pool(sentence: Tensor, without_boundaries: Tensor) -> Tensor:
    """The words of a sentence that are pooled: no sentence boundary, unless there is nothing else.

    The originals take the boundaries' vectors off, too, before a task reads a sentence (bilm-tf's `weight_layers`,
    AllenNLP's `Elmo`). An empty sentence keeps them, so that it differs from padding.

    Args:
        sentence: (batch, words), bool: the words of one sentence a row, boundaries included.
        without_boundaries: (batch, words), bool: all words that are no boundaries.

    Returns:
        (batch, words), bool.
    """
    words = sentence & without_boundaries
    return words | (sentence & ~words.any(dim=1, keepdim=True))
