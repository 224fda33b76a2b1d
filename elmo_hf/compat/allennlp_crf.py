"""AllenNLP's CRF classes on top of `elmo_hf.model.crf`.

Parameters have the originals' names, so a saved `state_dict` of AllenNLP loads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from elmo_hf.model.crf import CrfScores, best_paths, lannoy_log_likelihood, log_likelihood, weighted
from elmo_hf.model.tag_schemes import ROLES, forbidden_transitions

from .errors import ConfigurationError

# Score of transitions that the constraints forbid.
FORBIDDEN = -10000.0


def allowed_transitions(constraint_type: str, labels: Mapping[int, str]) -> list[tuple[int, int]]:
    """Pairs of consecutive labels, by number, that a tag scheme allows.

    Args:
        constraint_type: `"BIO"`, `"IOB1"`, `"BIOUL"`, `"BMES"`, or `"BIOES"`, which the original lacks.
        labels: mapping from number to label, such as `B-PER`.

    Returns:
        (from, to) pairs; the start of a sentence is number `len(labels)`, its end `len(labels) + 1`.

    Raises:
        ConfigurationError: an unknown scheme.
    """
    if constraint_type not in ROLES:
        raise ConfigurationError(f"constraint_type={constraint_type!r}: expected one of {', '.join(ROLES)}")
    count = len(labels)
    names = [labels[number] for number in range(count)]
    allowed = ~forbidden_transitions(names, constraint_type, is_strict=False)
    allowed[count, count] = False  # a sentence has at least one word
    if constraint_type == "BMES":
        # There is no outside label: every token belongs to a segment, as in word segmentation.
        outside = [number for number, name in enumerate(names) if name == "O"]
        allowed[outside], allowed[:, outside] = False, False
    # The start has no column, so the end is the last one.
    return [(before, after + (after == count)) for before, after in allowed.nonzero().tolist()]


class ConditionalRandomField(nn.Module):
    """A CRF over sequences of tags.

    Args:
        num_tags: number of tags.
        constraints: transitions allowed in decoding, from `allowed_transitions`; `None` for all. Not used in training.
        include_start_end_transitions: learn scores of first and last tags.
    """

    def __init__(
        self,
        num_tags: int,
        constraints: Sequence[tuple[int, int]] | None = None,
        include_start_end_transitions: bool = True,
    ) -> None:
        super().__init__()
        self.num_tags = num_tags
        self.include_start_end_transitions = include_start_end_transitions
        self.transitions = nn.Parameter(torch.empty(num_tags, num_tags))
        mask = torch.full((num_tags + 2, num_tags + 2), 1.0 if constraints is None else 0.0)
        for pair in constraints or ():
            mask[pair] = 1.0
        self._constraint_mask = nn.Parameter(mask, requires_grad=False)
        if include_start_end_transitions:
            self.start_transitions = nn.Parameter(torch.empty(num_tags))
            self.end_transitions = nn.Parameter(torch.empty(num_tags))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the scores at random."""
        nn.init.xavier_normal_(self.transitions)
        if self.include_start_end_transitions:
            nn.init.normal_(self.start_transitions)
            nn.init.normal_(self.end_transitions)

    def _scores(self) -> CrfScores:
        if self.include_start_end_transitions:
            return CrfScores(self.start_transitions, self.transitions, self.end_transitions)
        zeros = self.transitions.new_zeros(self.num_tags)
        return CrfScores(zeros, self.transitions, zeros)

    def forward(self, inputs: Tensor, tags: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the summed log-likelihood of a batch, a scalar.

        Args:
            inputs: (batch, words, num_tags), logits.
            tags: (batch, words), int64.
            mask: (batch, words), true for words; `None` for all.
        """
        mask = torch.ones_like(tags, dtype=torch.bool) if mask is None else mask.bool()
        return self._log_likelihood(inputs, tags, mask).sum()

    def _log_likelihood(self, inputs: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        return log_likelihood(inputs, tags, mask, self._scores())

    @torch.no_grad()
    def viterbi_tags(self, logits: Tensor, mask: Tensor | None = None, top_k: int | None = None) -> list[Any]:
        """Find the tags of the highest score under the constraints.

        Args:
            logits: (batch, words, num_tags).
            mask: (batch, words), true for words; `None` for all.
            top_k: number of sequences; `None` for the best alone.

        Returns:
            `(tags, score)` for each row; with `top_k` a list of them, best first, shorter if a row has fewer sequences.
        """
        mask = torch.ones_like(logits[..., 0], dtype=torch.bool) if mask is None else mask.bool()
        scores, allowed, count = self._scores(), self._constraint_mask, self.num_tags

        def constrained(values: Tensor, may: Tensor) -> Tensor:
            return values * may + FORBIDDEN * (1 - may)

        scores = CrfScores(
            constrained(scores.start, allowed[count, :count]),
            constrained(scores.transitions, allowed[:count, :count]),
            constrained(scores.end, allowed[:count, count + 1]),
        )
        tags, values = best_paths(logits, mask, scores, top_k or 1)
        found = [
            [
                (path[counts].tolist(), float(value))
                for path, value in zip(paths, row, strict=True)
                if not torch.isneginf(value)
            ]
            for paths, row, counts in zip(tags, values, mask, strict=True)
        ]
        return [paths[0] for paths in found] if top_k is None else found


class _Weighted(ConditionalRandomField):
    """A CRF with label weights in training.

    Args:
        label_weights: weight of each tag.

    Other arguments are those of `ConditionalRandomField`.
    """

    label_weights: Tensor
    weighs_transitions = False

    def __init__(
        self,
        num_tags: int,
        label_weights: Sequence[float],
        constraints: Sequence[tuple[int, int]] | None = None,
        include_start_end_transitions: bool = True,
    ) -> None:
        super().__init__(num_tags, constraints, include_start_end_transitions)
        if label_weights is None or len(label_weights) != num_tags:
            raise ConfigurationError(f"label_weights={label_weights}: expected {num_tags} numbers, one for each tag")
        self.register_buffer("label_weights", torch.tensor(label_weights, dtype=torch.float32))

    def _log_likelihood(self, inputs: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        inputs, scores = weighted(inputs, self._scores(), self.label_weights, self.weighs_transitions)
        return log_likelihood(inputs, tags, mask, scores)


class ConditionalRandomFieldWeightEmission(_Weighted):
    """A CRF in which labels weight the logits of their words (`weight_strategy="emission"`)."""


class ConditionalRandomFieldWeightTrans(_Weighted):
    """A CRF in which labels weight logits and the transitions from them (`weight_strategy="transition"`)."""

    weighs_transitions = True


class ConditionalRandomFieldWeightLannoy(_Weighted):
    """A CRF in which each word is weighted by its label (de Lannoy et al. 2012; `weight_strategy="lannoy"`)."""

    def _log_likelihood(self, inputs: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        return lannoy_log_likelihood(inputs, tags, mask, self._scores(), self.label_weights)
