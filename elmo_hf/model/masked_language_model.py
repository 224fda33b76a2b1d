"""Masked language model: prediction of a word from both of its contexts, left and right."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import can_return_tuple

from .configuration_elmo import ElmoConfig
from .labels import check_one_a_word, mean_loss
from .language_model import ElmoForPreTraining
from .opaque_parts import break_graph, opaque
from .softmax import LOGITS_AT_A_TIME, frequency_ranks

# Logit of padding and mask. Its exponential is zero, but it is finite, also in half precision, because label smoothing
# sums logits over the vocabulary.
IMPOSSIBLE = -1e4


class ElmoForMaskedLM(ElmoForPreTraining):
    r"""[`ElmoForPreTraining`] as a masked language model, with the same weights.

    A biLM gives one distribution of a word given its left context l, and one given its right context r. If the two
    contexts are independent given the word, p(l, r | w) = p(l | w) p(r | w), and Bayes' rule combines them:
    p(w | l, r) = p(w | l) p(w | r) / p(w) / Z. With an exponent a of the prior, `config.mask_prior_weight`:

        log p(w | l, r) = log p_forward(w | l) + log p_backward(w | r) - a log p(w) - log Z

    a = 1, the default, is Bayes' rule. a = 0 is a product of experts (Hinton 2002), which counts a word's frequency
    twice. Contexts are not quite independent in practice, so a slightly smaller a may rank words better. Z normalizes
    over all words but padding and mask; without labels, only over the words that can fill a gap.

    The prior is the distribution that bilm-tf's sampled softmax draws from: the word on line k of the vocabulary,
    counted from 0 in order of decreasing frequency, has p = log((k + 2) / (k + 1)) / log(words + 1). A vocabulary in
    another order needs a = 0.

    An empty context, at the first or the last position, contributes p(w)^a, which cancels the prior: these positions
    have the distribution of the other context, whatever a is.

    The prediction at a position never depends on the word at that position, whether `<mask>` or the true word. But
    other positions read it. Several masks in a sentence are predicted independently, and each one's context contains
    the others: a character model reads them spelled `<mask>` (or as `character_ids` give them), a word model reads
    `<UNK>`, because the embedding of `<mask>` is never trained.
    """

    _auto_class = "AutoModelForMaskedLM"

    def __init__(self, config: ElmoConfig) -> None:
        if not config.bidirectional:
            raise ValueError(
                "bidirectional=False: a masked language model needs both directions, and this model has the forward "
                "one only; load it as ElmoForPreTraining"
            )
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        character_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        pos_tag_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Predict the word at every position.

        Args:
            labels: (batch, words), int64, the true word ids, -100 for none.
            num_items_in_batch: divides the summed loss in place of this batch's number of labels.

        Other arguments and errors as in [`ElmoModel`].

        Returns:
            logits (batch, words, vocab_size), float32 or wider: log-probabilities. They are -10,000 for padding and
            mask, without labels also for the boundaries and the unknown word; zero at padded positions. They take
            4 bytes per position and word (80 MB for 25 positions and 800,000 words), plus at most about 1 GB for the
            chunk being computed; training takes five times as much. With labels and `config.sparse_prediction`, logits
            of the labeled positions only, (labels, vocab_size), row by row. With `labels`, also the mean cross-entropy.

        Raises:
            ValueError: labels of another shape, or outside of the vocabulary; a vocabulary without words;
                without labels, a softmax with random weights.
        """
        self.check_words()
        if labels is None:
            self._check_softmax()
        input_ids = self._without_masks(input_ids)
        beside, top, real = self._read_words(
            input_ids, attention_mask, character_ids, inputs_embeds, pos_tag_ids=pos_tag_ids, **kwargs
        )
        contexts, known = _contexts(top, real)
        loss = None
        if labels is None:
            (logits,) = self._everywhere(contexts, known, real)
        else:
            check_one_a_word(labels, real.shape)
            self._check_labels(labels)
            labeled = labels.ge(0) & real
            if self.config.sparse_prediction:
                break_graph("sparse_prediction=True: the number of logits depends on the labels; not in the graph")
                rows, excluded = _positions(labeled), self.softmax.excluded_ids
                logits = torch.cat([piece for _, piece in self._pieces(contexts, known, rows, excluded)])
                of_labels = logits.gather(1, labels[labeled].unsqueeze(1))
            else:
                (logits,) = self._everywhere(contexts, known, real, labels)
                of_labels = logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1) * labeled
            loss = mean_loss(-of_labels.sum(), labeled.sum(), num_items_in_batch)
        layers, attentions = beside.get("hidden_states"), beside["attentions"]
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=layers, attentions=attentions)

    def _without_masks(self, input_ids: Tensor | None) -> Tensor | None:
        """Replace the mask id by the unknown word's in a word model; a character model does not read the ids."""
        mask, unknown = self.config.mask_token_id, self.config.unk_token_id
        if input_ids is None or mask is None or unknown is None or not self.config.word_embedding_size:
            return input_ids
        return input_ids.masked_fill(input_ids == mask, unknown)

    @property
    def _no_answers(self) -> list[int]:
        """Ids that cannot fill a gap: padding and mask, the boundaries, the unknown word."""
        return sorted({*self.softmax.excluded_ids, *self.config.special_word_ids})

    @opaque(
        ("softmax",),
        lambda self, contexts, _, real, *labels: [((*real.shape, self.config.vocab_size), _wide(contexts.dtype))],
    )
    def _everywhere(self, contexts: Tensor, known: Tensor, real: Tensor, labels: Tensor | None = None) -> tuple[Tensor]:
        """Logits of all positions, (batch, words, vocab_size), zero at padding."""
        excluded = self._no_answers if labels is None else self.softmax.excluded_ids
        pieces = self._pieces(contexts, known, _positions(real), excluded)
        logits = contexts.new_zeros(real.numel(), self.config.vocab_size, dtype=_wide(contexts.dtype))
        if torch.is_grad_enabled():
            # A single graph node: one per chunk would allocate a gradient of the full size for each.
            positions, values = zip(*pieces, strict=True)
            logits = logits.index_copy(0, torch.cat(positions), torch.cat(values))
        else:
            for some, found in pieces:
                logits.index_copy_(0, some, found)
        return (logits.view(*real.shape, self.config.vocab_size),)

    def _pieces(
        self, contexts: Tensor, known: Tensor, positions: Tensor, excluded: list[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield chunks of positions [n] and their log-probabilities [n, vocab_size]; at least one chunk."""
        for some in positions.split(max(1, LOGITS_AT_A_TIME // self.config.vocab_size)):
            yield some, self._log_probabilities(contexts[:, some], known[:, some], excluded)

    def _log_probabilities(self, contexts: Tensor, known: Tensor, excluded: list[int]) -> Tensor:
        """Contexts [2, n, P], left and right of n positions, and whether each exists [2, n] -> [n, vocab_size]."""
        wide = _wide(contexts.dtype)
        # Up to a constant per position, which Z absorbs. A missing context counts zero here; its p(w)^a is added below.
        before, after = (
            self.softmax.logits(context).to(wide).masked_fill_(~is_known.unsqueeze(1), 0.0)
            for context, is_known in zip(contexts, known, strict=True)
        )
        scores = before.add_(after)
        if self.config.mask_prior_weight:
            priors = 1 - known.sum(0)  # -1, 0 or 1: the total exponent of p(w)^a
            log_prior = log_uniform_prior(self.config.vocab_size, self.softmax.excluded_ids, scores)
            scores.addr_(priors.to(wide), log_prior, alpha=float(self.config.mask_prior_weight))
        nothing = torch.tensor(excluded, dtype=torch.int64, device=scores.device)
        return scores.index_fill_(1, nothing, float("-inf")).log_softmax(1).index_fill(1, nothing, IMPOSSIBLE)


def log_uniform_prior(vocab_size: int, excluded_ids: Sequence[int], like: Tensor) -> Tensor:
    """Log-probability of each word by its frequency rank, [vocab_size]; zero at `excluded_ids`.

    Args:
        excluded_ids: increasing ids that are not words.
        like: gives dtype and device.

    Source: TensorFlow's `log_uniform_candidate_sampler`.
    """
    ranks = frequency_ranks(torch.arange(vocab_size, device=like.device), excluded_ids).to(like.dtype)
    count = vocab_size - len(excluded_ids)
    prior = torch.log(torch.log1p(1 / (ranks + 1)) / math.log(count + 1))
    prior[list(excluded_ids)] = 0.0
    return prior


def _contexts(top: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right context of every position, neither of which has read the word there.

    Args:
        top: (batch, words, 2 * P), the top layer.
        real: (batch, words), bool.

    Returns:
        [2, batch * words, P], the forward output one position earlier and the backward output one position later; and
        [2, batch * words], bool, true if that position exists and is a word.
    """
    contexts, known = [], []
    edges = slice(0, 1), slice(-1, None)
    for half, shift, edge in zip(top.chunk(2, dim=-1), (1, -1), edges, strict=True):
        is_known = real.roll(shift, dims=1)
        is_known[:, edge] = False  # `roll` must not wrap around
        contexts.append(half.roll(shift, dims=1).flatten(0, 1))
        known.append(is_known.flatten())
    return torch.stack(contexts), torch.stack(known)


def _positions(chosen: Tensor) -> Tensor:
    """(batch, words), bool -> [n], int64, flat indices of the true positions."""
    return chosen.flatten().nonzero().squeeze(1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
