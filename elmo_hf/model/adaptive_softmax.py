"""Adaptive softmax: words clustered by frequency, which makes training over a large vocabulary cheap."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .configuration_elmo import ElmoConfig
from .initialization import resized, starting_with
from .softmax import LOGITS_AT_A_TIME, ElmoVocabulary, frequency_ranks, ids_of_ranks, ids_without_probability

# Each cluster of rarer words is predicted from a vector this many times narrower than the one before it.
DIVISOR = 4.0


class ElmoAdaptiveSoftmax(ElmoVocabulary, nn.Module):
    """Adaptive softmax: a head over the frequent words and one entry for each cluster of rarer words.

    Replaces `ElmoSoftmax` in a model whose configuration has `softmax_cutoffs`, and has the same methods. It cannot be
    tied to a word table, because it has no row per word. No original format has one, so it is not exported; the biLM
    below it is.

    Source: Grave et al. 2017, "Efficient softmax approximation for GPUs"; `torch.nn.AdaptiveLogSoftmaxWithLoss`.

    Attributes:
        clusters: the weights; classes are frequency ranks, not word ids.

    Raises:
        ValueError: cutoffs that are not increasing ranks of the vocabulary, or too many for the model's width.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        if config.softmax_cutoffs is None:
            raise ValueError("an adaptive softmax needs softmax_cutoffs: ranks where its clusters begin")
        self.in_features, self.out_features = config.projection_size, config.vocab_size
        self.excluded_ids = ids_without_probability(config)
        self.cutoffs = list(config.softmax_cutoffs)
        words = config.vocab_size - len(self.excluded_ids)
        check_cutoffs(self.cutoffs, words)
        if config.projection_size < DIVISOR ** len(self.cutoffs):
            raise ValueError(
                f"softmax_cutoffs={self.cutoffs}: {len(self.cutoffs)} clusters, each {DIVISOR:g} times narrower than "
                f"the one before, leave nothing of projection_size={config.projection_size}; use fewer cutoffs"
            )
        self.clusters = nn.AdaptiveLogSoftmaxWithLoss(
            config.projection_size, words, self.cutoffs, div_value=DIVISOR, head_bias=True
        )
        for layer in self.clusters.modules():
            if isinstance(layer, nn.Linear):
                starting_with(layer, "normal", layer.in_features**-0.5)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., projection_size) -> (..., vocab_size): log-probabilities, minus infinity for padding and mask."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        scores = flat.new_full((len(flat), self.out_features), float("-inf"))
        ranks = torch.arange(self.clusters.n_classes, device=flat.device)
        scores = scores.index_copy(1, ids_of_ranks(ranks, self.excluded_ids), self.clusters.log_prob(flat))
        return scores.view(*hidden.shape[:-1], -1)

    def log_probabilities(self, hidden: Tensor, word_ids: Tensor) -> Tensor:
        """Log-probabilities, as `ElmoSoftmax.log_probabilities`: [n, projection_size], [n] -> [n]."""
        ranks = frequency_ranks(word_ids, self.excluded_ids)
        step = max(1, LOGITS_AT_A_TIME // max(1, self.out_features))
        parts = [
            self.clusters(part, these).output for part, these in zip(hidden.split(step), ranks.split(step), strict=True)
        ]
        scores = torch.cat(parts) if parts else hidden.new_zeros(0)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    @torch.no_grad()
    def resize(self, size: int, mean_resizing: bool) -> None:
        """Grow or shrink the cluster of the rarest words; arguments as `ElmoSoftmax.resize`."""
        excluded = [token for token in self.excluded_ids if token < size]
        words = size - len(excluded)
        check_cutoffs(self.cutoffs, words)
        last = self.clusters.tail[-1].get_submodule("1")
        assert isinstance(last, nn.Linear)
        rows = words - self.cutoffs[-1]
        last.weight = resized(last, rows, range(last.out_features) if mean_resizing else None)
        last.out_features = rows
        self.clusters.n_classes = self.clusters.cutoffs[-1] = words
        self.out_features, self.excluded_ids = size, excluded


def check_cutoffs(cutoffs: list[int], words: int) -> None:
    """Refuse cutoffs that are not increasing ranks of a vocabulary of `words` words.

    Raises:
        ValueError: names the cutoffs and the bound.
    """
    rising = all(low < high for low, high in pairwise(cutoffs))
    if not cutoffs or not rising or cutoffs[0] < 1 or cutoffs[-1] >= words:
        raise ValueError(
            f"softmax_cutoffs={cutoffs}: expected increasing ranks from 1 to {words - 1}, since the vocabulary has "
            f"{words} words with a probability"
        )
