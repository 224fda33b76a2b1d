"""A linear-chain conditional random field over the tags of a sentence (Lafferty et al. 2001).

The score of a tag sequence is the sum of a start score, one score per word and tag (the *emissions*), one score per
transition between neighboring tags, and an end score. Probabilities are a softmax over all sequences. In the paper's
taggers the CRF is the layer after the biLSTM (section 4, named entity extraction).

Everything is computed in float32 or wider. Loops run over words, with all sentences of the batch packed: step t is a
slice of the rows that have a word t, so loops need no masks.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init

from .configuration_elmo import ElmoConfig
from .packing import PackedBatch
from .tag_schemes import forbidden_transitions

# Score of a forbidden transition. Finite, so that no gradient is NaN, and far below any learned score.
FORBIDDEN = -1e6

# Margin by which max-marginals prefer the decoded tag to others of the same score.
TIE = 1e-6

IGNORED = -100


class CrfScores(NamedTuple):
    """Scores of a CRF over L tags, without emissions.

    Attributes:
        start: (L,), score of each tag as the first one.
        transitions: (L, L), score of the tag of the column following the tag of the row.
        end: (L,), score of each tag as the last one.
    """

    start: Tensor
    transitions: Tensor
    end: Tensor

    def reversed(self) -> "CrfScores":
        """Scores of the same CRF for sequences read from the last word to the first."""
        return CrfScores(self.end, self.transitions.T, self.start)


# -- The module --------------------------------------------------------------------------------------------------------


class ElmoCrf(nn.Module):
    """Learned scores of a CRF and the constraints of its tag scheme.

    Scores start at zero: a new CRF is a softmax over the sequences that its scheme allows.

    Args:
        config: gives `num_labels`, `tag_scheme` and the fields that begin with `crf_`.

    Attributes:
        start_transitions, end_transitions: (num_labels,); absent without `crf_start_end_transitions`.
        transitions: (num_labels, num_labels), from row to column.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        count = config.num_labels or 0
        self.labels = config.label_names
        self.tag_scheme = config.tag_scheme if config.crf_constraints != "never" else None
        self.constrains_training = config.crf_constraints == "always"
        self.label_weights, self.weight_strategy = config.crf_label_weights, config.crf_weight_strategy
        if self.label_weights is not None and len(self.label_weights) != count:
            raise ValueError(
                f"crf_label_weights has {len(self.label_weights)} values: expected {count}, one for each label"
            )
        has_ends = config.crf_start_end_transitions
        self.start_transitions = nn.Parameter(torch.empty(count)) if has_ends else None
        self.transitions = nn.Parameter(torch.empty(count, count))
        self.end_transitions = nn.Parameter(torch.empty(count)) if has_ends else None
        # No buffer: it follows from the configuration, and loading a checkpoint would leave it uninitialized.
        self.forbidden = forbidden_transitions(self.labels, self.tag_scheme, is_strict=self.constrains_training)

    def reset_weights(self) -> None:
        """Set all scores to zero; loaded tensors are kept."""
        for scores in self.parameters():
            init.zeros_(scores)

    def forward(self, is_constrained: bool = True) -> CrfScores:
        """The scores, float32 or wider; forbidden ones are `FORBIDDEN` if `is_constrained`, as decoding needs them."""
        transitions = _widened(self.transitions)
        nothing = transitions.new_zeros(len(transitions))
        ends = (self.start_transitions, self.end_transitions)
        start, end = (nothing if scores is None else _widened(scores) for scores in ends)
        scores = CrfScores(start, transitions, end)
        return self._forbid(scores) if is_constrained else scores

    def log_likelihood(self, emissions: Tensor, labels: Tensor, mask: Tensor, is_weighted: bool = True) -> Tensor:
        """Log-likelihood of the labels, weighted by `crf_label_weights` if set: the training objective.

        Arguments and result as in the function `log_likelihood`; `is_weighted=False` ignores the weights. Constraints
        apply if `crf_constraints="always"`.

        Raises:
            ValueError: labels that the scheme forbids, if constraints apply.
        """
        scores = self(is_constrained=False)
        weights = None
        if self.label_weights is not None and is_weighted:
            weights = torch.tensor(self.label_weights, dtype=scores.start.dtype, device=scores.start.device)
            if self.weight_strategy != "lannoy":
                emissions, scores = weighted(emissions, scores, weights, self.weight_strategy == "transition")
        if self.constrains_training:
            self.check_labels(labels, mask)
            scores = self._forbid(scores)
        if weights is not None and self.weight_strategy == "lannoy":
            return lannoy_log_likelihood(emissions, labels, mask, scores, weights)
        return log_likelihood(emissions, labels, mask, scores)

    def _forbid(self, scores: CrfScores) -> CrfScores:
        forbidden = self.forbidden.to(scores.start.device)
        return CrfScores(
            scores.start.masked_fill(forbidden[-1, :-1], FORBIDDEN),
            scores.transitions.masked_fill(forbidden[:-1, :-1], FORBIDDEN),
            scores.end.masked_fill(forbidden[:-1, -1], FORBIDDEN),
        )

    @torch.no_grad()
    def check_labels(self, labels: Tensor, mask: Tensor) -> None:
        """Refuse labels that the scheme forbids; arguments as in [`log_likelihood`].

        Raises:
            ValueError: names the first such row, the word and the two tags.
        """
        if self.tag_scheme is None:
            return
        count = len(self.labels)
        zeros = torch.zeros(*mask.shape, count, device=labels.device)
        nothing = CrfScores(zeros.new_zeros(count), zeros.new_zeros(count, count), zeros.new_zeros(count))
        is_labeled = (mask & labels.ne(IGNORED)).any(dim=1)
        impossible = (label_scores(zeros, labels, mask, self._forbid(nothing)) < FORBIDDEN / 2) & is_labeled
        if not impossible.any():
            return
        row = int(impossible.nonzero()[0])
        raise ValueError(
            f"labels of row {row}: {self._contradiction(labels[row][mask[row]].tolist())}, which {self.tag_scheme} "
            "does not allow. Correct the data, label words of unknown tag -100 (also the context words around a window "
            "that cuts an entity), or set tag_scheme=None"
        )

    def _contradiction(self, labels: Sequence[int]) -> str:
        """Describe the first place where a row of labels becomes impossible; words are counted from 0."""
        allowed, boundary = ~self.forbidden, len(self.labels)
        possible, known = {boundary}, "at the beginning of the sentence"
        for word, label in enumerate([*labels, boundary]):
            candidates = range(boundary) if label == IGNORED else [label]
            possible = {after for after in candidates if any(allowed[before, after] for before in possible)}
            if not possible:
                here = "the end of the sentence" if label == boundary else f"{self.labels[label]!r} at word {word}"
                return f"{here}, {known}"
            if label not in (IGNORED, boundary):
                known = f"after {self.labels[label]!r} at word {word}"
        raise AssertionError("the labels are possible")


# -- Dynamic programming over all sequences ----------------------------------------------------------------------------


def _widened(emissions: Tensor) -> Tensor:
    return emissions.to(torch.promote_types(emissions.dtype, torch.float32))


def _best(values: Tensor, dim: int) -> Tensor:
    return values.amax(dim)


def _run(
    packed: Tensor, batch_sizes: list[int], scores: CrfScores, combine: Callable[[Tensor, int], Tensor]
) -> list[Tensor]:
    """Forward pass of the dynamic program: for each word and tag, the combined score of all paths that end there.

    Args:
        packed: [total, L], emissions in reading order.
        batch_sizes: number of rows at each step.
        combine: `torch.logsumexp` or `_best`.

    Returns:
        One tensor [rows, L] per step, the word's own emission included; a single empty one if there are no words.
    """
    first, *others = packed.split(batch_sizes) if batch_sizes else [packed]
    steps = [scores.start + first]
    for emissions in others:
        before = steps[-1][: len(emissions)].unsqueeze(-1)  # [rows, from, 1]
        steps.append(combine(before + scores.transitions, 1) + emissions)
    return steps


def _last(steps: list[Tensor]) -> Tensor:
    """[rows, L]: the last step of each row, longest row first."""
    running = [len(step) for step in steps]
    ends = [step[after:] for step, after in zip(steps, [*running[1:], 0], strict=True)]
    return torch.cat(ends[::-1])


def _packed(emissions: Tensor, mask: Tensor) -> tuple[PackedBatch, Tensor]:
    """The packing of the words where `mask` is true, and their emissions [total, L], float32 or wider."""
    packing = PackedBatch.from_mask(mask)
    return packing, packing.pack(_widened(emissions), packing.forward_index)


def _unsort_rows(values: Tensor, packing: PackedBatch) -> Tensor:
    """[rows with words], longest first -> (batch,) in the batch's order, zero for rows without words."""
    return values.new_zeros(packing.shape[0]).index_copy(0, packing.row_order[: len(values)], values)


def log_partition(emissions: Tensor, mask: Tensor, scores: CrfScores) -> Tensor:
    """Log-sum-exp of the scores of all sequences.

    Args:
        emissions: (batch, words, L), any floating dtype.
        mask: (batch, words), bool: true at the words of the sequence; other positions, wherever they are, are skipped.
        scores: as returned by [`ElmoCrf`].

    Returns:
        (batch,), float32 or wider; 0 for a row without words, whose only sequence is the empty one.
    """
    packing, packed = _packed(emissions, mask)
    final = _last(_run(packed, packing.batch_sizes, scores, torch.logsumexp)) + scores.end
    return _unsort_rows(torch.logsumexp(final, dim=1), packing)


def path_scores(emissions: Tensor, labels: Tensor, mask: Tensor, scores: CrfScores) -> Tensor:
    """Score of one sequence per row.

    Args:
        labels: (batch, words), int64, from 0 to L - 1 where `mask` is true; not read elsewhere.

    Other arguments and the result as in [`log_partition`].
    """
    if not mask.shape[1]:
        return _widened(emissions).new_zeros(len(mask))
    tags = labels.clamp(min=0, max=emissions.shape[-1] - 1)
    words = _widened(emissions).gather(2, tags.unsqueeze(-1)).squeeze(-1).masked_fill(~mask, 0.0)
    # Words first: transitions skip masked positions between them.
    columns = torch.argsort(mask.logical_not().to(torch.uint8), dim=1, stable=True)
    tags = tags.gather(1, columns)  # [batch, words]
    lengths = mask.sum(dim=1)
    follows = torch.arange(1, mask.shape[1], device=mask.device) < lengths[:, None]
    pairs = scores.transitions[tags[:, :-1], tags[:, 1:]].masked_fill(~follows, 0.0)
    last = tags.gather(1, (lengths - 1).clamp(min=0)[:, None]).squeeze(1)
    ends = (scores.start[tags[:, 0]] + scores.end[last]).masked_fill(lengths == 0, 0.0)
    return words.sum(dim=1) + pairs.sum(dim=1) + ends


def label_scores(emissions: Tensor, labels: Tensor, mask: Tensor, scores: CrfScores) -> Tensor:
    """Log-sum-exp of the scores of all sequences that agree with the labels.

    Args:
        labels: (batch, words), int64; -100 stands for any tag.

    Other arguments and the result as in [`log_partition`].
    """
    result = path_scores(emissions, labels, mask, scores)
    open_rows = (mask & labels.eq(IGNORED)).any(dim=1).nonzero().squeeze(1)
    if not len(open_rows):
        return result
    emissions, labels, mask = _widened(emissions)[open_rows], labels[open_rows], mask[open_rows]
    tags = torch.arange(emissions.shape[-1], device=labels.device)
    excluded = labels.ne(IGNORED).unsqueeze(-1) & labels.unsqueeze(-1).ne(tags)
    summed = log_partition(emissions + excluded * FORBIDDEN, mask, scores)
    return result.index_copy(0, open_rows, summed)


def log_likelihood(emissions: Tensor, labels: Tensor, mask: Tensor, scores: CrfScores) -> Tensor:
    """Log-likelihood of the labels, in nats.

    Args:
        emissions: (batch, words, L), any floating dtype.
        labels: (batch, words), int64, from 0 to L - 1; -100 for a word of unknown tag, which is marginalized out. Not
            read where `mask` is false.
        mask: (batch, words), bool: true at the words of the sequence; other positions, wherever they are, are skipped.
        scores: as returned by [`ElmoCrf`]; its `check_labels` checks whether they allow the labels.

    Returns:
        (batch,), float32 or wider; 0 for a row without labels.
    """
    is_labeled = (mask & labels.ne(IGNORED)).any(dim=1)
    difference = label_scores(emissions, labels, mask, scores) - log_partition(emissions, mask, scores)
    return difference.masked_fill(~is_labeled, 0.0)


def weighted(
    emissions: Tensor, scores: CrfScores, weights: Tensor, weighs_transitions: bool
) -> tuple[Tensor, CrfScores]:
    """Scale emissions, and transitions if `weighs_transitions`, by the weights of their labels.

    A transition has the weight of its first label; start and end scores are not scaled. Source: AllenNLP's
    `weight_strategy`, `"emission"` and `"transition"`.

    Args:
        emissions: (batch, words, L).
        scores: without constraints, which must not be scaled.
        weights: (L,), not negative.
        weighs_transitions: true for the strategy `"transition"`.
    """
    if weighs_transitions:
        scores = scores._replace(transitions=scores.transitions * weights.unsqueeze(1))
    return _widened(emissions) * weights, scores


def lannoy_log_likelihood(
    emissions: Tensor, labels: Tensor, mask: Tensor, scores: CrfScores, weights: Tensor
) -> Tensor:
    """Log-likelihood in which each word's factor has the weight of its label (de Lannoy et al. 2012).

    The probability of a sentence is a product of one normalized factor per word; each factor is raised to the power of
    its label's weight. Start and end scores are not scaled.

    Source: AllenNLP's `weight_strategy="lannoy"`.

    Args:
        weights: (L,), not negative.

    Other arguments and the result as in `log_likelihood`, except that a row has labels at all of its words or at none.

    Raises:
        ValueError: a row with labels at some of its words only.
    """
    is_labeled = (mask & labels.ne(IGNORED)).any(dim=1)
    if (mask & labels.eq(IGNORED) & is_labeled.unsqueeze(1)).any():
        raise ValueError(
            'labels hold -100 inside a sentence: crf_weight_strategy="lannoy" weighs each word by its label; expected '
            'labels of all words, or "emission" or "transition"'
        )
    packing, packed = _packed(emissions, mask)
    weight = weights[labels.clamp(min=0, max=len(weights) - 1)]  # [batch, words]
    steps = _run(packed, packing.batch_sizes, scores, torch.logsumexp)
    sums = [torch.logsumexp(step, dim=1) for step in steps]
    # The increase of the log-partition at each word.
    added = [sums[0], *(after - before[: len(after)] for before, after in itertools.pairwise(sums))]
    total = torch.cat(added) * packing.pack(weight.unsqueeze(-1), packing.forward_index).squeeze(-1)
    partition = packing.unpack(total.unsqueeze(-1), packing.forward_index).sum(dim=(1, 2))
    last = _last(steps)
    ends = torch.logsumexp(last + scores.end, dim=1) - torch.logsumexp(last, dim=1)
    scaled, scaled_scores = weighted(emissions, scores, weights, weighs_transitions=True)
    score = path_scores(scaled, labels, mask, scaled_scores)
    difference = score - partition - _unsort_rows(ends, packing)
    return difference.masked_fill(~is_labeled, 0.0)


@torch.no_grad()
def best_tags(emissions: Tensor, mask: Tensor, scores: CrfScores) -> Tensor:
    """Best sequence of each row (Viterbi decoding); arguments as in [`log_partition`].

    Returns:
        (batch, words), int64, -100 where `mask` is false.
    """
    return _decode(emissions, mask, scores)[0]


@torch.no_grad()
def best_paths(emissions: Tensor, mask: Tensor, scores: CrfScores, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best sequences of each row, best first (k-best Viterbi decoding).

    Args:
        count: number of sequences, at least 1.

    Other arguments as in [`log_partition`].

    Returns:
        tags (batch, count, words), int64, -100 where `mask` is false; scores (batch, count), float32 or wider. A row
        with fewer sequences is filled up with -100 and minus infinity. Forbidden sequences score below
        `FORBIDDEN / 2` and come last.
    """
    packing, packed = _packed(emissions, mask)
    rows, words = mask.shape
    values = _widened(emissions).new_full((rows, count), -torch.inf)
    values[~mask.any(dim=1), 0] = 0.0  # the empty sequence
    tags = torch.full((count, rows * words), IGNORED, device=mask.device)
    if not packing.batch_sizes:
        return tags.view(count, rows, words).transpose(0, 1), values
    labels = emissions.shape[-1]
    best: list[Tensor] = []  # [rows, paths kept, L]: scores of the best paths to every tag
    arrived: list[Tensor] = []  # back-pointers of these paths, into the flattened [paths kept, L] of the word before
    for step in packed.split(packing.batch_sizes):
        if not best:
            best.append((scores.start + step).unsqueeze(1))
            continue
        ahead = (best[-1][: len(step)].unsqueeze(-1) + scores.transitions).flatten(1, 2)  # [rows, paths * from, to]
        kept = ahead.topk(min(count, ahead.shape[1]), dim=1)
        best.append(kept.values + step.unsqueeze(1))
        arrived.append(kept.indices)
    # Backtracking, from each row's last word to its first.
    behind, found, ends = best[-1].new_empty(0, count, dtype=torch.int64), [], []
    for place in reversed(range(len(best))):
        paths = best[place]
        final = (paths[len(behind) :] + scores.end).flatten(1)
        kept = final.topk(min(count, final.shape[1]), dim=1)
        missing = (0, count - kept.values.shape[1])
        ends.append(functional.pad(kept.values, missing, value=-torch.inf))
        if place + 1 < len(best):
            behind = arrived[place].flatten(1).gather(1, behind)
        behind = torch.cat([behind, functional.pad(kept.indices, missing)])
        found.append(behind % labels)
    order = packing.row_order[: len(behind)]
    values[order] = torch.cat(ends)
    tags[:, packing.forward_index] = torch.cat(found[::-1]).T
    tags = tags.view(count, rows, words).transpose(0, 1)
    return tags.masked_fill(values.isneginf().unsqueeze(-1), IGNORED), values


@torch.no_grad()
def max_marginals(emissions: Tensor, mask: Tensor, scores: CrfScores) -> Tensor:
    """Max-marginals: for each word and tag, the best score of a sequence with that tag, minus the overall best score.

    They are 0 for the tags of [`best_tags`] and at most `-TIE` for all others, so the argmax of each word gives the
    Viterbi sequence, also if scores tie. Arguments as in [`log_partition`].

    Returns:
        (batch, words, L), float32 or wider; 0 where `mask` is false.
    """
    tags, forward, packing = _decode(emissions, mask, scores)
    values = _widened(emissions)
    packed = packing.pack(values, packing.backward_index)
    backward = torch.cat(_run(packed, packing.batch_sizes, scores.reversed(), _best))
    through = (
        packing.unpack(torch.cat(forward), packing.forward_index)
        + packing.unpack(backward, packing.backward_index)
        - values  # counted by both
    )
    best = _unsort_rows((_last(forward) + scores.end).amax(dim=1), packing)
    marginals = (through - best[:, None, None]).clamp(max=-TIE)
    marginals = marginals.scatter(2, tags.clamp(min=0).unsqueeze(-1), 0.0)
    return marginals.masked_fill(~mask.unsqueeze(-1), 0.0)


def _decode(emissions: Tensor, mask: Tensor, scores: CrfScores) -> tuple[Tensor, list[Tensor], PackedBatch]:
    """The best tags, as `best_tags`; the best scores up to each word, as `_run`; the packing."""
    packing, packed = _packed(emissions, mask)
    tags = torch.full(mask.shape, IGNORED, device=mask.device)
    steps = _run(packed, packing.batch_sizes, scores, _best)
    # Backtracking, from each row's last word to its first: the best tag given the next one.
    behind = torch.empty(0, dtype=torch.int64, device=mask.device)
    found = []
    arriving = scores.transitions.T.contiguous()
    for step in reversed(steps):
        going_on, ending = step[: len(behind)], step[len(behind) :]
        behind = torch.cat([going_on + arriving[behind], ending + scores.end]).argmax(dim=1)
        found.append(behind)
    tags.view(-1)[packing.forward_index] = torch.cat(found[::-1])
    return tags, steps, packing
