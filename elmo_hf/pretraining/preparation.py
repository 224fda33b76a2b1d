"""Preparation of batches on the host, so that the objective never synchronizes with a GPU.

Distinct words, checks of ids, candidates of the sampled softmax and the rows it needs all have sizes that depend on the
data. Computed on a GPU, each would wait for all queued work.
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
    """Rows of the softmax for a batch: the sampled words of each direction, and the true words.

    S is the number of samples and n the number of targets of a direction; directions are forward, backward.

    Attributes:
        rows: [k], int64, ascending: the rows of both directions, without repetition.
        sampled: (2, S); true: (2, n): positions in `rows`.
        hits: (2, n): column of the candidate equal to the true word, -1 for none.
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
    """A batch in the form that the objective needs: forward, then backward, with n positions each, step by step.

    Attributes:
        source: the original batch, on the host.
        words: checked inputs of the word layer for the distinct words.
        places: (2, rows, steps), int64: index of the distinct word at each position; their number at padding.
        has_padding: True if any position has no word.
        labels: [2n], int64; positions without a target have some word with a probability.
        real: [2n], bool: True at positions with a target.
        counts: [2], int64: number of targets of each direction.
        starts: (2, rows), bool: rows whose first word is the boundary before a sentence; `None` if unknown.
        candidates: candidates of the sampled softmax; `None` for another loss.
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
        """The same batch with its tensors on `device`, except `source`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PreparedBatch":
        """The same batch in page-locked memory, for asynchronous copies to a GPU; except `source`."""
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
    """Function that prepares batches, in the order of the candidates' draws.

    Attributes:
        layer: the model's word layer; its weights are not read.
        vocab_size, excluded_ids: number of words of the softmax, and ids without a probability.
        dtype: dtype of the softmax's weights.
        sampler: sampler of the candidates; `None` for another loss.
    """

    layer: WordLayer
    vocab_size: int
    excluded_ids: tuple[int, ...]
    dtype: torch.dtype
    sampler: LogUniformSampler | None

    def without_weights(self) -> "BatchPreparation":
        """A copy for another process, without weights and with its own sampler."""
        empty: dict[int, Any] = {
            id(weight): nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)
            for weight in self.layer.parameters()
        }
        return replace(self, layer=copy.deepcopy(self.layer, empty), sampler=copy.deepcopy(self.sampler))

    def skip(self) -> None:
        """Skip the candidates of one batch."""
        if self.sampler is not None:
            self.sampler.draws += 2

    def __call__(self, batch: StreamBatch, *, samples: bool = True) -> PreparedBatch:
        """Prepare a batch.

        Args:
            samples: draw candidates, if there is a sampler.

        Raises:
            ValueError: labels that are not words of the model, ids out of range, or a missing input of the model.
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
    """Labels (rows, steps) as [steps * rows]."""
    return labels.T.reshape(-1)
