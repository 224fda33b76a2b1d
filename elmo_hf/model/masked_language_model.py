"""The word in a gap, from the words before it and the words after it."""

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

# The logit of padding and mask: its exponential is zero, and it is finite, in half precision too, for label smoothing
# and other sums over the vocabulary.
IMPOSSIBLE = -1e4


class ElmoForMaskedLM(ElmoForPreTraining):
    r"""The language model of [`ElmoForPreTraining`], with the same weights, asked for a word between two contexts.

    A biLM knows a word's distribution given the words before it and another one given the words after it. Where both
    sides are independent given the word, Bayes' rule makes one of the two: p(l, r | w) = p(l | w) p(r | w), hence
    p(w | l, r) = p(w | l) p(w | r) / p(w) / Z. With the weight a of the prior, `config.mask_prior_weight`:

        log p(w | l, r) = log p_forward(w | l) + log p_backward(w | r) - a log p(w) - log Z

    a = 1, the default, is that rule. a = 0 is the plain product of both distributions (a product of experts, Hinton
    2002), which counts a frequent word's frequency twice. The sides of a sentence are not quite independent given one
    word of it, and a little less than 1 may rank the words better. Z sums over all words but padding and mask, so that
    probabilities sum to one; without labels, when a gap is to be filled, over those that can fill it.

    The prior is the distribution that bilm-tf's sampled softmax draws from: the word on line k of the vocabulary, by
    falling frequency and counted from 0, has p = log((k + 2) / (k + 1)) / log(words + 1). A vocabulary in another order
    needs a = 0.

    A side without words, as at the first and the last position, adds p(w)^a: nothing but the prior. So these
    positions have the distribution of their one side, whatever a is.

    No position reads its own word: neither the characters of `<mask>` nor those of the true word can change its
    prediction. But every other position reads them. Of several gaps each is filled by itself, next to words spelt
    `<mask>`, unless `character_ids` hold other words; a word model reads `<UNK>` there, since training never shows it
    the row of `<mask>`.
    """

    _auto_class = "AutoModelForMaskedLM"

    def __init__(self, config: ElmoConfig) -> None:
        if not config.bidirectional:
            raise ValueError(
                "bidirectional=False: a gap is filled from both of its sides, and this model reads from the left "
                "alone; load it as ElmoForPreTraining"
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
            labels: (batch, words), the true word ids, -100 where there is none.
            num_items_in_batch: divides the summed loss in place of this batch's number of labels.

        Other arguments and errors as in [`ElmoModel`].

        Returns:
            logits (batch, words, vocab_size), float32 or wider: natural logarithms of probabilities; -10,000 for
            padding and mask, which are no words, and without labels also for the boundaries and the unknown word, which
            are no answers; zeros at padded positions. They take 4 bytes a position and word, 80
            MB for 25 positions and 800,000 words, and at most about 1 GB beside for those computed at a time; training
            takes five times as much. With labels and `config.sparse_prediction` they are the labeled positions' only,
            (labels, vocab_size), row by row. With `labels`, also the mean cross-entropy.

        Raises:
            ValueError: labels of another shape, or one that is no word of the vocabulary; a model without words, or
                without labels one whose softmax has learned nothing.
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
                break_graph("sparse_prediction=True: how many logits there are depends on the labels")
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
        """What a word model reads at masks; a character model reads characters, whatever the ids are."""
        mask, unknown = self.config.mask_token_id, self.config.unk_token_id
        if input_ids is None or mask is None or unknown is None or not self.config.word_embedding_size:
            return input_ids
        return input_ids.masked_fill(input_ids == mask, unknown)

    @property
    def _no_answers(self) -> list[int]:
        """Ids that fill no gap: padding and mask, the boundaries, the unknown word."""
        return sorted({*self.softmax.excluded_ids, *self.config.special_word_ids})

    @opaque(
        ("softmax",),
        lambda self, contexts, _, real, *labels: [((*real.shape, self.config.vocab_size), _wide(contexts.dtype))],
    )
    def _everywhere(self, contexts: Tensor, known: Tensor, real: Tensor, labels: Tensor | None = None) -> tuple[Tensor]:
        """(batch, words, vocab_size), zero at padding."""
        excluded = self._no_answers if labels is None else self.softmax.excluded_ids
        pieces = self._pieces(contexts, known, _positions(real), excluded)
        logits = contexts.new_zeros(real.numel(), self.config.vocab_size, dtype=_wide(contexts.dtype))
        if torch.is_grad_enabled():
            # One node of the graph for all pieces: each would hand on a gradient of the whole size.
            positions, values = zip(*pieces, strict=True)
            logits = logits.index_copy(0, torch.cat(positions), torch.cat(values))
        else:
            for some, found in pieces:
                logits.index_copy_(0, some, found)
        return (logits.view(*real.shape, self.config.vocab_size),)

    def _pieces(
        self, contexts: Tensor, known: Tensor, positions: Tensor, excluded: list[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Positions [n], a few at a time, and their log-probabilities [n, vocab_size]; at least one piece."""
        for some in positions.split(max(1, LOGITS_AT_A_TIME // self.config.vocab_size)):
            yield some, self._log_probabilities(contexts[:, some], known[:, some], excluded)

    def _log_probabilities(self, contexts: Tensor, known: Tensor, excluded: list[int]) -> Tensor:
        """The formula: contexts [2, n, P] before and after n gaps, and which are known [2, n] -> [n, vocab_size]."""
        wide = _wide(contexts.dtype)
        # Log-probabilities up to a constant of each gap, which Z takes up. Of an unknown side p(w)^a, left to the end.
        before, after = (
            self.softmax.logits(context).to(wide).masked_fill_(~is_known.unsqueeze(1), 0.0)
            for context, is_known in zip(contexts, known, strict=True)
        )
        scores = before.add_(after)
        if self.config.mask_prior_weight:
            priors = 1 - known.sum(0)  # -1, 0 or 1: how often p(w)^a is a factor
            log_prior = log_uniform_prior(self.config.vocab_size, self.softmax.excluded_ids, scores)
            scores.addr_(priors.to(wide), log_prior, alpha=float(self.config.mask_prior_weight))
        nothing = torch.tensor(excluded, dtype=torch.int64, device=scores.device)
        return scores.index_fill_(1, nothing, float("-inf")).log_softmax(1).index_fill(1, nothing, IMPOSSIBLE)


def log_uniform_prior(vocab_size: int, excluded_ids: Sequence[int], like: Tensor) -> Tensor:
    """[vocab_size], log p(w) by a word's rank, summing to one over the words; zero at `excluded_ids`.

    Args:
        excluded_ids: rising, ids that are no words.
        like: gives dtype and device.

    Source: TensorFlow's `log_uniform_candidate_sampler`.
    """
    ranks = frequency_ranks(torch.arange(vocab_size, device=like.device), excluded_ids).to(like.dtype)
    count = vocab_size - len(excluded_ids)
    prior = torch.log(torch.log1p(1 / (ranks + 1)) / math.log(count + 1))
    prior[list(excluded_ids)] = 0.0
    return prior


def _contexts(top: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """What both directions know of every position without having read it.

    Args:
        top: (batch, words, 2 * P), the top layer.
        real: (batch, words), bool.

    Returns:
        [2, batch * words, P], the forward output one position earlier and the backward output one later; and
        [2, batch * words], bool, whether there is such a position and it holds a word.
    """
    contexts, known = [], []
    edges = slice(0, 1), slice(-1, None)
    for half, shift, edge in zip(top.chunk(2, dim=-1), (1, -1), edges, strict=True):
        is_known = real.roll(shift, dims=1)
        is_known[:, edge] = False  # no sentence wraps around
        contexts.append(half.roll(shift, dims=1).flatten(0, 1))
        known.append(is_known.flatten())
    return torch.stack(contexts), torch.stack(known)


def _positions(chosen: Tensor) -> Tensor:
    """(batch, words), bool -> [n], the flat positions that are true."""
    return chosen.flatten().nonzero().squeeze(1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
