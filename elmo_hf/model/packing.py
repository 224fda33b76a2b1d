"""Padded batches as packed, time-major sequences, one reading order for each direction.

A recurrent layer has no use for padding. `PackedBatch` lists the real words of a padded batch step by step, longest
row first, so that step t is a plain slice over the rows that are still running (a shrinking batch), whatever side the
padding is on. The backward direction is the same code over another index.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


class PaddedSizes(list[int]):
    """The `batch_sizes` of a batch that is packed with its padding, because only its device knows how long rows are.

    All rows run at each step. Whoever takes these must end row r after `lengths[r]` steps.

    Attributes:
        lengths: [rows], on the device of the batch.
    """

    def __init__(self, steps: int, lengths: Tensor) -> None:
        super().__init__([len(lengths)] * steps)
        self.lengths = lengths


@dataclass(frozen=True)
class PackedBatch:
    """Where each word of a padded batch (rows x words) stands in its packed sequences.

    `total` is the number of real words, `steps` the length of the longest row.

    Attributes:
        batch_sizes: `steps` numbers of running rows, never growing. Python integers.
        row_order: [rows] the batch's rows by falling length; equal lengths keep their order.
        forward_index: [total] flat position (row * words + column) of every packed word, first word first.
        backward_index: [total] the same, each row read from its last word to its first.
        shape: (rows, words) of the padded batch.
    """

    batch_sizes: list[int]
    row_order: Tensor
    forward_index: Tensor
    backward_index: Tensor
    shape: tuple[int, int]

    @classmethod
    def from_mask(cls, mask: Tensor, *, with_padding: bool = False) -> "PackedBatch":
        """Pack the positions that `mask` (rows, words), bool, marks as real, on either side or between padding.

        Args:
            with_padding: pack padding too, behind the words of its row, and wait for nothing that a GPU has to do
                first; `batch_sizes` are `PaddedSizes`, rows keep their order, and `total` is rows * words.
        """
        rows, words = mask.shape
        lengths = mask.sum(dim=1)
        row_order = torch.argsort(lengths, descending=True, stable=True)
        # Column of the k-th real word of every row; the columns of padding follow and are never selected.
        columns = torch.argsort(mask.logical_not().to(torch.uint8), dim=1, stable=True)  # [rows, words]
        step = torch.arange(words, device=mask.device)
        # Reading backwards, step k takes real word number length - 1 - k, and past the end what reading forwards takes.
        mirrored = torch.where(step < lengths[:, None], lengths[:, None] - 1 - step, step)
        row_start = torch.arange(rows, device=mask.device)[:, None] * words
        forward = row_start + columns  # [rows, words]
        backward = row_start + columns.gather(1, mirrored)
        if with_padding:
            sizes, unchanged = PaddedSizes(words, lengths), torch.arange(rows, device=mask.device)
            return cls(sizes, unchanged, forward.T.flatten(), backward.T.flatten(), (rows, words))
        running = step[:, None] < lengths[row_order]  # [words, rows], time-major
        return cls(
            batch_sizes=[size for size in running.sum(dim=1).tolist() if size],
            row_order=row_order,
            forward_index=forward[row_order].T[running],
            backward_index=backward[row_order].T[running],
            shape=(rows, words),
        )

    @cached_property
    def mirrored(self) -> Tensor:
        """[total], for every word of `backward_index` its place in `forward_index`; also the way back."""
        rows, words = self.shape
        place = self.forward_index.new_empty(rows * words)
        place[self.forward_index] = torch.arange(len(self.forward_index), device=place.device)
        return place[self.backward_index]

    def pack(self, padded: Tensor, index: Tensor) -> Tensor:
        """(rows, words, width) -> [total, width] in the order of `index`, one of the two of this object."""
        return padded.flatten(0, 1).index_select(0, index)

    def unpack(self, packed: Tensor, index: Tensor) -> Tensor:
        """[total, width] -> (rows, words, width), zero at padding."""
        rows, words = self.shape
        flat = packed.new_zeros(rows * words, packed.shape[-1]).index_copy(0, index, packed)
        return flat.view(rows, words, packed.shape[-1])
