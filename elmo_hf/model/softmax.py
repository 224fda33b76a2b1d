"""Word probabilities of the language model: one softmax over the vocabulary, shared by both directions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .configuration_elmo import ElmoConfig
from .initialization import resized, starting_with

# Logits computed at a time, words x vocabulary: 256 MB in float32.
LOGITS_AT_A_TIME = 2**26


def ids_without_probability(config: ElmoConfig) -> list[int]:
    """Padding and mask, rising: they have ids, and rows where rows follow ids, but no original gives them a chance."""
    special = (config.pad_token_id, config.mask_token_id)
    return sorted({token for token in special if token is not None and 0 <= token < config.vocab_size})


def frequency_ranks(word_ids: Tensor, excluded_ids: Sequence[int]) -> Tensor:
    """The place of each word among the words with a probability, counted from 0.

    That is the line of the original's vocabulary file, where words stand by falling frequency.

    Args:
        word_ids: any shape, int64, none of them in `excluded_ids`.
        excluded_ids: rising; see `ids_without_probability`.
    """
    ranks = word_ids
    for token in excluded_ids:
        ranks = ranks - (word_ids > token).to(ranks.dtype)
    return ranks


def ids_of_ranks(ranks: Tensor, excluded_ids: Sequence[int]) -> Tensor:
    """The inverse of `frequency_ranks`."""
    word_ids = ranks
    for token in excluded_ids:
        word_ids = word_ids + (word_ids >= token).to(word_ids.dtype)
    return word_ids


class ElmoVocabulary:
    """Which ids a softmax gives a probability.

    Attributes:
        excluded_ids: those of padding and mask.
    """

    excluded_ids: list[int]

    def has_probability(self, word_ids: Tensor) -> Tensor:
        """Bool, as `word_ids`: whether an id is a word of the vocabulary, and neither padding, mask nor negative."""
        known = word_ids >= 0
        for token in self.excluded_ids:
            known = known & (word_ids != token)
        return known


class ElmoSoftmax(ElmoVocabulary, nn.Linear):
    """Linear layer from one direction's top output, `projection_size`, to the word ids.

    Rows follow the tokenizer's ids. Padding and mask have rows, so that ids and rows agree, but no original has a
    probability for them: they take no part in the normalization.

    Source: bilm-tf `softmax/W`, `softmax/b`.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config.projection_size, config.vocab_size)
        starting_with(self, "normal", config.projection_size**-0.5)
        self.excluded_ids = ids_without_probability(config)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., projection_size) -> (..., vocab_size), minus infinity for padding and mask."""
        logits = self(hidden)
        if self.excluded_ids:
            index = torch.tensor(self.excluded_ids, device=logits.device)
            # In place: a copy of all logits for the sake of two columns would cost as much as the softmax.
            logits = logits.index_fill_(-1, index, float("-inf"))
        return logits

    def log_probabilities(self, hidden: Tensor, word_ids: Tensor) -> Tensor:
        """Natural logarithm of each word's probability.

        Args:
            hidden: [n, projection_size], the contexts.
            word_ids: [n], the words; each with a probability (see `has_probability`).

        Returns:
            [n], float32 or wider.
        """
        step = max(1, LOGITS_AT_A_TIME // max(1, self.out_features))
        parts = [
            # Cross-entropy subtracts the largest logit before it exponentiates.
            -functional.cross_entropy(
                self.logits(part).to(torch.promote_types(part.dtype, torch.float32)), ids, reduction="none"
            )
            for part, ids in zip(hidden.split(step), word_ids.split(step), strict=True)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def resize(self, size: int, mean_resizing: bool) -> None:
        """Keep the first `size` rows; new ones start as the mean of the old words' rows, or as at first."""
        old, words = self.bias, [row for row in range(self.out_features) if row not in self.excluded_ids]
        words = words if mean_resizing else []
        self.weight = resized(self, size, words)
        bias = old.new_zeros(size) + (old[words].mean() if words else 0)
        bias[: len(old)] = old[:size]
        self.bias = nn.Parameter(bias, requires_grad=old.requires_grad)
        self.out_features = size
        self.excluded_ids = [token for token in self.excluded_ids if token < size]
