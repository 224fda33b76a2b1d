"""Softmax of the language model over the vocabulary, shared by both directions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .conditions import has_nothing_attached
from .configuration_elmo import ElmoConfig
from .initialization import resized, starting_with

# Logits per chunk, words x vocabulary: 256 MB in float32.
LOGITS_AT_A_TIME = 2**26
# Logits per block without gradients on a CPU, words and columns: 2 MB in float32, which stay in the caches.
WORDS_AT_A_TIME, COLUMNS_AT_A_TIME = 1024, 512


def ids_without_probability(config: ElmoConfig) -> list[int]:
    """Ids of padding and mask, increasing. They have rows in the tables, but no probability in any original."""
    special = (config.pad_token_id, config.mask_token_id)
    return sorted({token for token in special if token is not None and 0 <= token < config.vocab_size})


def frequency_ranks(word_ids: Tensor, excluded_ids: Sequence[int]) -> Tensor:
    """Rank of each word among the words with a probability, from 0: its line in the original's vocabulary file.

    That file lists words by decreasing frequency.

    Args:
        word_ids: any shape, int64, none of them in `excluded_ids`.
        excluded_ids: increasing; see `ids_without_probability`.

    Returns:
        Ranks, int64, shaped as `word_ids`.
    """
    ranks = word_ids
    for token in excluded_ids:
        ranks = ranks - (word_ids > token).to(ranks.dtype)
    return ranks


def ids_of_ranks(ranks: Tensor, excluded_ids: Sequence[int]) -> Tensor:
    """Inverse of `frequency_ranks`."""
    word_ids = ranks
    for token in excluded_ids:
        word_ids = word_ids + (word_ids >= token).to(word_ids.dtype)
    return word_ids


class ElmoVocabulary:
    """Vocabulary of a softmax: the ids with and without a probability.

    Attributes:
        excluded_ids: ids of padding and mask.
    """

    excluded_ids: list[int]

    def has_probability(self, word_ids: Tensor) -> Tensor:
        """Bool, shaped as `word_ids`: false for padding, mask and negative ids."""
        known = word_ids >= 0
        for token in self.excluded_ids:
            known = known & (word_ids != token)
        return known


class ElmoSoftmax(ElmoVocabulary, nn.Linear):
    """Linear layer from one direction's top output, `projection_size` wide, to a logit for each word id.

    Rows are in the order of the tokenizer's ids. Padding and mask have rows too, but are excluded from the
    normalization, because they have no probability in any original.

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
            # In place: a copy of all logits would cost as much as the softmax itself.
            logits = logits.index_fill_(-1, index, float("-inf"))
        return logits

    def log_probabilities(self, hidden: Tensor, word_ids: Tensor) -> Tensor:
        """Log-probability of each word in its context, in nats.

        Args:
            hidden: [n, projection_size], the contexts.
            word_ids: [n], int64, the words; each must have a probability (see `has_probability`).

        Returns:
            [n], float32 or wider.
        """
        in_blocks = not torch.is_grad_enabled() and hidden.device.type == "cpu" and has_nothing_attached(self)
        compute = self._log_probabilities_in_blocks if in_blocks else self.reference_log_probabilities
        step = WORDS_AT_A_TIME if in_blocks else max(1, LOGITS_AT_A_TIME // max(1, self.out_features))
        return torch.cat(list(map(compute, hidden.split(step), word_ids.split(step))))

    def reference_log_probabilities(self, hidden: Tensor, word_ids: Tensor) -> Tensor:
        """Definition of `log_probabilities`. It holds all logits, [n, vocab_size]."""
        logits = self.logits(hidden)
        # Numerically stable: cross-entropy subtracts the largest logit.
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return -functional.cross_entropy(wide, word_ids, reduction="none")

    def _log_probabilities_in_blocks(self, hidden: Tensor, word_ids: Tensor) -> Tensor:
        """`reference_log_probabilities` without gradients, by blocks of columns.

        Contexts that occur more than once, as in sentences that begin alike, are computed once.
        """
        # Compared by their bits: NaN has no order.
        bits, places = torch.unique(hidden.contiguous().view(torch.int16), dim=0, return_inverse=True)
        contexts, wide = bits.view(hidden.dtype), torch.promote_types(hidden.dtype, torch.float32)
        bias = self.bias.index_fill(0, torch.tensor(self.excluded_ids, dtype=torch.int64), float("-inf"))
        normalizer = hidden.new_full((len(contexts),), float("-inf"), dtype=wide)
        truth = hidden.new_full((len(word_ids),), float("nan"), dtype=wide)
        for first in range(0, self.out_features, COLUMNS_AT_A_TIME):
            block = slice(first, first + COLUMNS_AT_A_TIME)
            logits = functional.linear(contexts, self.weight[block], bias[block]).to(wide)
            here = (word_ids // COLUMNS_AT_A_TIME == first // COLUMNS_AT_A_TIME).nonzero().squeeze(1)
            truth[here] = logits[places[here], word_ids[here] - first]
            normalizer = torch.logaddexp(normalizer, logits.logsumexp(dim=1))
        return (truth - normalizer[places]).clamp(max=0)  # rounding may put a certain word above

    @torch.no_grad()
    def resize(self, size: int, mean_resizing: bool) -> None:
        """Resize to `size` rows; new rows are the mean of the old words' rows, or have initial values."""
        old, words = self.bias, [row for row in range(self.out_features) if row not in self.excluded_ids]
        words = words if mean_resizing else []
        self.weight = resized(self, size, words)
        bias = old.new_zeros(size) + (old[words].mean() if words else 0)
        bias[: len(old)] = old[:size]
        self.bias = nn.Parameter(bias, requires_grad=old.requires_grad)
        self.out_features = size
        self.excluded_ids = [token for token in self.excluded_ids if token < size]
