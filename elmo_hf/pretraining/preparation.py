"""What the objective reads of a batch, worked out on the host: nothing in it makes a GPU wait.

Which words differ, whether all ids are in range, which candidates the sampled softmax draws and which rows it needs are
questions whose answers have a size of their own. A GPU that is asked them has to finish what it does first.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elmo_hf.model.character_embeddings import distinct_rows
from elmo_hf.model.softmax import frequency_ranks, ids_of_ranks
from elmo_hf.model.word_layer import WordLayer

from .sampled_softmax import LogUniformSampler, accidental_hits, log_expected_count
from .streams import IGNORED_LABEL, StreamBatch


class PreparedCandidates(NamedTuple):
    """Rows of the softmax that a batch needs: the words sampled for each direction, and the true ones.

    With S samples and n targets of a direction, directions forward, backward.

    Attributes:
        rows: [k], int64, rising: every row that either direction needs, once.
        sampled: (2, S); true: (2, n): places in `rows`.
        hits: (2, n): the column of the candidate that is the true word itself, -1 for none.
        sampled_log_counts: (2, S); true_log_counts: (2, n): ln Q, in the dtype of the softmax.
    """

    rows: Tensor
    sampled: Tensor
    true: Tensor
    hits: Tensor
    sampled_log_counts: Tensor
    true_log_counts: Tensor


@dataclass(frozen=True)
class PreparedBatch:
    """A batch as the objective reads it, directions forward, backward; n positions of each, step by step.

    Attributes:
        source: the batch itself, on the host.
        words: what the word layer reads of the words that differ, checked.
        places: (2, rows, steps), int64: which of those stands there; their number at padding.
        has_padding: whether any position holds no word.
        labels: [2n], int64; where nothing is predicted, some word that has a probability.
        real: [2n], bool: where a word is predicted.
        counts: [2], int64: how many of each direction.
        starts: (2, rows), bool: rows whose first word is the boundary before a sentence; `None` if nobody knows.
        candidates: of the sampled softmax; `None` without one.
    """

    source: StreamBatch
    words: tuple[Tensor, ...]
    places: Tensor
    has_padding: bool
    labels: Tensor
    real: Tensor
    counts: Tensor
    starts: Tensor | None
    candidates: PreparedCandidates | None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PreparedBatch":
        """The same batch with its tensors on `device`, but for `source`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PreparedBatch":
        """The same batch in page-locked memory, from which copies to a GPU wait for nothing; but for `source`."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> "PreparedBatch":
        def mapped(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, PreparedCandidates):
                return PreparedCandidates(*map(function, value))
            return tuple(map(function, value)) if isinstance(value, tuple) else value

        return replace(self, **{each.name: mapped(getattr(self, each.name)) for each in fields(self)})


@dataclass(frozen=True)
class BatchPreparation:
    """Turns batches into prepared ones, in the order of the candidates' draws.

    Attributes:
        layer: the model's word layer; its weights are not read.
        vocab_size, excluded_ids: of the softmax.
        dtype: of the softmax's weights.
        sampler: draws the candidates; `None` for another loss.
    """

    layer: WordLayer
    vocab_size: int
    excluded_ids: tuple[int, ...]
    dtype: torch.dtype
    sampler: LogUniformSampler | None

    def without_weights(self) -> "BatchPreparation":
        """A copy, with a sampler of its own, that holds no weights: for another process."""
        empty: dict[int, Any] = {
            id(weight): nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)
            for weight in self.layer.parameters()
        }
        return replace(self, layer=copy.deepcopy(self.layer, empty), sampler=copy.deepcopy(self.sampler))

    def skip(self) -> None:
        """Pass over the candidates of one batch."""
        if self.sampler is not None:
            self.sampler.draws += 2

    def __call__(self, batch: StreamBatch, *, samples: bool = True) -> PreparedBatch:
        """Prepare a batch.

        Args:
            samples: draw candidates, if there is a sampler.

        Raises:
            ValueError: labels that are no words of the model, ids out of range, or something that the model reads and
                the batch does not have.
        """
        batch = batch.to("cpu")
        words, places, has_padding = self._words(batch)
        labels = torch.cat([_step_by_step(batch.forward_labels), _step_by_step(batch.backward_labels)])
        real = labels.ne(IGNORED_LABEL)
        self._check(labels, real)
        labels = torch.where(real, labels, ids_of_ranks(torch.zeros_like(labels[:1]), self.excluded_ids))
        starts = None
        if batch.forward_starts is not None and batch.backward_starts is not None:
            starts = torch.stack([batch.forward_starts, batch.backward_starts])
        candidates = self._candidates(self.sampler, labels) if samples and self.sampler is not None else None
        return PreparedBatch(
            batch, words, places, has_padding, labels, real, real.view(2, -1).sum(dim=1), starts, candidates
        )

    def _words(self, batch: StreamBatch) -> tuple[tuple[Tensor, ...], Tensor, bool]:
        inputs = []
        for name in self.layer.input_names:
            pair = getattr(batch, f"forward_{name}"), getattr(batch, f"backward_{name}")
            if pair[0] is None or pair[1] is None:
                raise ValueError(f"this model reads {name} and the batch has none: make the streams with {name}=True")
            inputs.append(torch.cat(pair))  # (2 * rows, steps, ...)
        mask = self.layer.real_words(inputs[0])
        rows = self.layer.rows(*inputs, mask=mask)
        distinct, found = distinct_rows(rows)
        places = torch.full(mask.shape, len(distinct)).masked_scatter_(mask, found).view(2, -1, mask.shape[1])
        return self.layer.checked(distinct), places, len(rows) < mask.numel()

    def _check(self, labels: Tensor, real: Tensor) -> None:
        known = (labels >= 0) & (labels < self.vocab_size)
        for token in self.excluded_ids:
            known &= labels != token
        wrong = labels[real & ~known]
        if len(wrong):
            raise ValueError(
                f"label {int(wrong[0])}: expected the id of a word, below vocab_size={self.vocab_size} and none of "
                f"{list(self.excluded_ids)} (padding, mask), or {IGNORED_LABEL} for no target; the batch was made with "
                "another tokenizer than the model's"
            )

    def _candidates(self, sampler: LogUniformSampler, labels: Tensor) -> PreparedCandidates:
        drawn = [sampler.draw() for _ in range(2)]
        sampled_ids = [ids_of_ranks(each.ranks, self.excluded_ids) for each in drawn]
        rows, places = torch.cat([*sampled_ids, labels]).unique(return_inverse=True)
        of_directions = labels.view(2, -1)
        ranks = frequency_ranks(of_directions, self.excluded_ids)

        def log_counts(of: list[Tensor]) -> Tensor:
            return torch.stack(
                [
                    log_expected_count(each, candidates.tries, sampler.num_samples, sampler.num_words)
                    for each, candidates in zip(of, drawn, strict=True)
                ]
            ).to(self.dtype)

        return PreparedCandidates(
            rows=rows,
            sampled=places[: 2 * sampler.num_samples].view(2, -1),
            true=places[2 * sampler.num_samples :].view(2, -1),
            hits=torch.stack([accidental_hits(*pair) for pair in zip(of_directions, sampled_ids, strict=True)]),
            sampled_log_counts=log_counts([each.ranks for each in drawn]),
            true_log_counts=log_counts(list(ranks)),
        )


def _step_by_step(labels: Tensor) -> Tensor:
    """(rows, steps) -> [steps * rows]."""
    return labels.T.reshape(-1)
