"""A linear-chain conditional random field over the tags of a sentence (Lafferty et al. 2001).

A sequence of tags has the score of its first tag, of every word's tag (the *emissions*), of every pair of neighbours
and of its last tag; its probability is the exponential, normalised over all sequences. In the paper's taggers the field
stands behind the biLSTM (section 4, named entity extraction).

Everything is computed in float32 or wider. Loops run over words and never over sentences: step t is a plain slice of
the rows that are still running, so there are no masks inside a loop.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_elmo import ElmoConfig
from .packing import PackedBatch

# The score of what a tag scheme forbids. Finite, so that no gradient is NaN, and beyond all that a model learns.
FORBIDDEN = -1e6

# What separates the best path's tags from tags of the same score.
TIE = 1e-6

IGNORED = -100

PREFIXES = {"BIO": ("B", "I"), "BIOES": ("B", "I", "E", "S")}


class CrfScores(NamedTuple):
    """Scores of a field over L tags.

    Attributes:
        start: (L,), of the first tag.
        transitions: (L, L), of every tag (row) being followed by every tag (column).
        end: (L,), of the last tag.
    """

    start: Tensor
    transitions: Tensor
    end: Tensor

    def reversed(self) -> "CrfScores":
        """The same field read from the last word to the first."""
        return CrfScores(self.end, self.transitions.T, self.start)


# -- What a tag scheme allows ------------------------------------------------------------------------------------------


def _parse(label: str, scheme: str) -> tuple[str, str]:
    """Prefix and type of a label, `("O", "")` outside of an entity."""
    if label == "O":
        return "O", ""
    prefix, dash, kind = label.partition("-")
    if prefix not in PREFIXES[scheme] or bool(dash) != bool(kind):
        raise ValueError(
            f"label {label!r} is no tag of tag_scheme={scheme!r}: expected O, or one of "
            f"{', '.join(PREFIXES[scheme])} with a dash and a type, such as B-PER. Give id2label the tags of the data, "
            "or set tag_scheme=None for labels that are no such scheme"
        )
    return prefix, kind


def _may_follow(before: tuple[str, str] | None, after: tuple[str, str] | None, scheme: str) -> bool:
    """Whether a tag may stand behind another; `None` is the beginning or the end of the sentence."""
    prefix_before, kind_before = before or ("O", "")
    prefix_after, kind_after = after or ("O", "")
    continues = prefix_before in ("B", "I") and prefix_after in ("I", "E") and kind_before == kind_after
    if scheme == "BIO":
        return continues or prefix_after != "I"
    # An entity that began goes on until it ends, and only such a one goes on.
    return continues or (prefix_before not in ("B", "I") and prefix_after not in ("I", "E"))


def forbidden_transitions(labels: Sequence[str], scheme: str | None) -> Tensor:
    """What no sequence of tags has, for instance I-PER behind B-LOC.

    Args:
        labels: the L tags, in the order of their ids.
        scheme: `"BIO"` (also called IOB2), `"BIOES"`, or `None` for labels that may follow each other freely.

    Returns:
        (L + 1, L + 1), bool, on the CPU: true where a tag (row) must not be followed by another (column). The last row
        stands for the beginning of a sentence and the last column for its end.

    Raises:
        ValueError: a label is no tag of the scheme, or can stand in no sequence of these labels.
    """
    count = len(labels)
    if scheme is None:
        return torch.zeros(count + 1, count + 1, dtype=torch.bool, device="cpu")
    tags = [*(_parse(label, scheme) for label in labels), None]
    allowed = [[_may_follow(before, after, scheme) for after in tags] for before in tags]
    begins = _reached(allowed, count)
    ends = _reached([list(column) for column in zip(*allowed, strict=True)], count)
    for index, label in enumerate(labels):
        if index not in begins or index not in ends:
            prefix, kind = "E" if index in begins else "B", _parse(label, scheme)[1]
            raise ValueError(
                f"label {label!r} can stand in no {scheme} sequence of the labels {', '.join(labels)}: expected "
                f"{f'{prefix}-{kind}' if kind else prefix!r} among them. Convert data of another scheme (IOB1 "
                f"begins entities with I) to {scheme}, or set tag_scheme=None"
            )
    # Models are also built where the default device holds no values.
    return torch.tensor([[not may for may in row] for row in allowed], device="cpu")


def _reached(allowed: Sequence[Sequence[bool]], boundary: int) -> set[int]:
    """The tags that some path from the boundary leads to, without passing the boundary again."""
    found, ahead = {boundary}, [boundary]
    while ahead:
        before = ahead.pop()
        new = {after for after, may in enumerate(allowed[before]) if may} - found
        found |= new
        ahead += new
    return found


# -- The field ---------------------------------------------------------------------------------------------------------


class ElmoCrf(nn.Module):
    """The scores of a field, and which of them a tag scheme forbids.

    They start at zero, so that a new field is one softmax a word over what its scheme allows.

    Attributes:
        start_transitions, end_transitions: (num_labels,).
        transitions: (num_labels, num_labels), from row to column.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        count = config.num_labels or 0
        names = cast("dict[int, str]", config.id2label)
        self.labels = [names[index] for index in range(count)]
        self.tag_scheme = config.tag_scheme
        self.start_transitions = nn.Parameter(torch.empty(count))
        self.transitions = nn.Parameter(torch.empty(count, count))
        self.end_transitions = nn.Parameter(torch.empty(count))
        # Known from the configuration. No buffer: loading leaves the values of those that a checkpoint lacks undefined.
        self.forbidden = forbidden_transitions(self.labels, self.tag_scheme)

    def reset_weights(self) -> None:
        """Set the initial scores; tensors that were loaded stay."""
        for scores in (self.start_transitions, self.transitions, self.end_transitions):
            init.zeros_(scores)

    def forward(self) -> CrfScores:
        """The scores, float32 or wider."""
        scores = CrfScores(self.start_transitions, self.transitions, self.end_transitions)
        dtype = torch.promote_types(self.transitions.dtype, torch.float32)
        return self._forbid(CrfScores(*(part.to(dtype) for part in scores)))

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
        is_labelled = (mask & labels.ne(IGNORED)).any(dim=1)
        impossible = (label_scores(zeros, labels, mask, self._forbid(nothing)) < FORBIDDEN / 2) & is_labelled
        if not impossible.any():
            return
        row = int(impossible.nonzero()[0])
        raise ValueError(
            f"labels of row {row}: {self._contradiction(labels[row][mask[row]].tolist())}, which no {self.tag_scheme} "
            "sequence has. Correct the data, give -100 to words of unknown tag (a window that cuts an entity has "
            "context on either side), or set tag_scheme=None"
        )

    def _contradiction(self, labels: Sequence[int]) -> str:
        """Where a row of labels becomes impossible, in words; words are counted from 0."""
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


# -- Sums and maxima over all sequences --------------------------------------------------------------------------------


def _widened(emissions: Tensor) -> Tensor:
    return emissions.to(torch.promote_types(emissions.dtype, torch.float32))


def _best(values: Tensor, dim: int) -> Tensor:
    return values.amax(dim)


def _run(
    packed: Tensor, batch_sizes: list[int], scores: CrfScores, combine: Callable[[Tensor, int], Tensor]
) -> list[Tensor]:
    """For every word and tag the combined score of all paths that lead there, the word's own emission included.

    Args:
        packed: [total, L], emissions in reading order.
        batch_sizes: rows running at each step.
        combine: `torch.logsumexp` or `_best`.

    Returns:
        One tensor [rows, L] a step.
    """
    steps: list[Tensor] = []
    for emissions in packed.split(batch_sizes):
        if not steps:
            steps.append(scores.start + emissions)
            continue
        before = steps[-1][: len(emissions)].unsqueeze(-1)  # [rows, from, 1]
        steps.append(combine(before + scores.transitions, 1) + emissions)
    return steps


def _last(steps: list[Tensor]) -> Tensor:
    """[rows, L]: each row's own last step, longest row first."""
    running = [len(step) for step in steps]
    ends = [step[after:] for step, after in zip(steps, [*running[1:], 0], strict=True)]
    return torch.cat(ends[::-1])


def _of_rows(values: Tensor, packing: PackedBatch) -> Tensor:
    """[rows with words], longest first -> (batch,), zero for rows without words."""
    return values.new_zeros(packing.shape[0]).index_copy(0, packing.row_order[: len(values)], values)


def log_partition(emissions: Tensor, mask: Tensor, scores: CrfScores) -> Tensor:
    """Logarithm of the summed exponentials of all sequences' scores.

    Args:
        emissions: (batch, words, L), any floating dtype.
        mask: (batch, words), bool: the words of the field; others, wherever they stand, are left out.
        scores: as [`ElmoCrf`] gives them.

    Returns:
        (batch,), float32 or wider; 0 for a row without words, which has one sequence, the empty one.
    """
    packing = PackedBatch.from_mask(mask)
    if not packing.batch_sizes:
        return _widened(emissions).new_zeros(len(mask))
    packed = packing.pack(_widened(emissions), packing.forward_index)
    final = _last(_run(packed, packing.batch_sizes, scores, torch.logsumexp)) + scores.end
    return _of_rows(torch.logsumexp(final, dim=1), packing)


def path_scores(emissions: Tensor, labels: Tensor, mask: Tensor, scores: CrfScores) -> Tensor:
    """Score of one sequence a row.

    Args:
        labels: (batch, words), int64, from 0 to L - 1 where `mask` is true; not read elsewhere.

    Other arguments and the result as in [`log_partition`].
    """
    if not mask.shape[1]:
        return _widened(emissions).new_zeros(len(mask))
    tags = labels.clamp(min=0, max=emissions.shape[-1] - 1)
    words = _widened(emissions).gather(2, tags.unsqueeze(-1)).squeeze(-1).masked_fill(~mask, 0.0)
    # The field's words side by side, whatever stands between them.
    columns = torch.argsort(mask.logical_not().to(torch.uint8), dim=1, stable=True)
    tags = tags.gather(1, columns)  # [batch, words]
    lengths = mask.sum(dim=1)
    follows = torch.arange(1, mask.shape[1], device=mask.device) < lengths[:, None]
    pairs = scores.transitions[tags[:, :-1], tags[:, 1:]].masked_fill(~follows, 0.0)
    last = tags.gather(1, (lengths - 1).clamp(min=0)[:, None]).squeeze(1)
    ends = (scores.start[tags[:, 0]] + scores.end[last]).masked_fill(lengths == 0, 0.0)
    return words.sum(dim=1) + pairs.sum(dim=1) + ends


def label_scores(emissions: Tensor, labels: Tensor, mask: Tensor, scores: CrfScores) -> Tensor:
    """Logarithm of the summed exponentials of all sequences that agree with the labels.

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
    """Natural logarithm of the labels' probability.

    Args:
        emissions: (batch, words, L), any floating dtype.
        labels: (batch, words), int64, from 0 to L - 1; -100 for a word of unknown tag, over whose tags the
            probability is summed. Not read where `mask` is false.
        mask: (batch, words), bool: the words of the field; others, wherever they stand, are left out.
        scores: as [`ElmoCrf`] gives them; its `check_labels` tells whether they allow the labels.

    Returns:
        (batch,), float32 or wider; 0 for a row without labels.
    """
    is_labelled = (mask & labels.ne(IGNORED)).any(dim=1)
    difference = label_scores(emissions, labels, mask, scores) - log_partition(emissions, mask, scores)
    return difference.masked_fill(~is_labelled, 0.0)


@torch.no_grad()
def best_tags(emissions: Tensor, mask: Tensor, scores: CrfScores) -> Tensor:
    """The sequence of the highest score (Viterbi decoding); arguments as in [`log_partition`].

    Returns:
        (batch, words), int64, -100 where `mask` is false.
    """
    return _decode(emissions, mask, scores)[0]


@torch.no_grad()
def max_marginals(emissions: Tensor, mask: Tensor, scores: CrfScores) -> Tensor:
    """For every word and tag the best score of a sequence with this tag there, minus the best score of all.

    The tags of [`best_tags`] have exactly 0 and all others less (by a millionth at least, should their scores tie): the
    largest value of each word gives the sequence that Viterbi decoding gives. Arguments as in [`log_partition`].

    Returns:
        (batch, words, L), float32 or wider; 0 where `mask` is false.
    """
    tags, forward, packing = _decode(emissions, mask, scores)
    marginals = torch.zeros_like(_widened(emissions))
    if not packing.batch_sizes:
        return marginals
    values = _widened(emissions)
    packed = packing.pack(values, packing.backward_index)
    backward = torch.cat(_run(packed, packing.batch_sizes, scores.reversed(), _best))
    through = (
        packing.unpack(torch.cat(forward), packing.forward_index)
        + packing.unpack(backward, packing.backward_index)
        - values  # counted by both
    )
    best = _of_rows((_last(forward) + scores.end).amax(dim=1), packing)
    marginals = (through - best[:, None, None]).clamp(max=-TIE)
    marginals = marginals.scatter(2, tags.clamp(min=0).unsqueeze(-1), 0.0)
    return marginals.masked_fill(~mask.unsqueeze(-1), 0.0)


def _decode(emissions: Tensor, mask: Tensor, scores: CrfScores) -> tuple[Tensor, list[Tensor], PackedBatch]:
    """The best tags, as `best_tags`; the best scores up to each word, as `_run`; how the words are packed."""
    packing = PackedBatch.from_mask(mask)
    tags = torch.full(mask.shape, IGNORED, device=mask.device)
    if not packing.batch_sizes:
        return tags, [], packing
    packed = packing.pack(_widened(emissions), packing.forward_index)
    steps = _run(packed, packing.batch_sizes, scores, _best)
    # From each row's last word to its first: the best tag, given the one behind it.
    behind = torch.empty(0, dtype=torch.int64, device=mask.device)
    found = []
    arriving = scores.transitions.T.contiguous()
    for step in reversed(steps):
        going_on, ending = step[: len(behind)], step[len(behind) :]
        behind = torch.cat([going_on + arriving[behind], ending + scores.end]).argmax(dim=1)
        found.append(behind)
    tags.view(-1)[packing.forward_index] = torch.cat(found[::-1])
    return tags, steps, packing
