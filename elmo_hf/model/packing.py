"""Packing of padded batches into time-major sequences without padding, one order for each direction.

`PackedBatch` lists the words of a padded batch step by step, longest row first, so that step t is a slice over the rows
that have a word t, whatever side the padding is on. The backward direction uses the same code with another index.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


class PaddedSizes(list[int]):
    """`batch_sizes` of a batch packed with its padding, which avoids copying the lengths from the GPU.

    All rows are in every step; the consumer must end row r after `lengths[r]` steps.

    Attributes:
        lengths: [rows], on the device of the batch.
    """

    def __init__(self, steps: int, lengths: Tensor) -> None:
        super().__init__([len(lengths)] * steps)
        self.lengths = lengths


@dataclass(frozen=True)
class PackedBatch:
    """Indices that pack a padded batch (rows, words) and unpack it again.

    `total` is the number of words without padding, `steps` the length of the longest row.

    Attributes:
        batch_sizes: number of rows at each of the `steps` steps, never increasing. Python integers.
        row_order: [rows], int64, the batch's rows by decreasing length; equal lengths keep their order.
        forward_index: [total], int64, flat position (row * words + column) of every packed word, first word first.
        backward_index: [total], int64, the same with each row read from its last word to its first.
        shape: (rows, words) of the padded batch.
    """

    batch_sizes: list[int]
    row_order: Tensor
    forward_index: Tensor
    backward_index: Tensor
    shape: tuple[int, int]

    @classmethod
    def from_mask(cls, mask: Tensor, *, with_padding: bool = False) -> "PackedBatch":
        """Compute the packing of a batch.

        Args:
            mask: (rows, words), bool, true at words; padding may be anywhere in a row.
            with_padding: pack padding too, after the words of its row, without synchronizing a GPU. `batch_sizes` are
                then `PaddedSizes`, rows keep their order, and `total` is rows * words.
        """
        rows, words = mask.shape
        lengths = mask.sum(dim=1)
        row_order = torch.argsort(lengths, descending=True, stable=True)
        # Column of the k-th word of every row, then the columns of padding.
        columns = torch.argsort(mask.logical_not().to(torch.uint8), dim=1, stable=True)  # [rows, words]
        step = torch.arange(words, device=mask.device)
        # Backwards, step k is word length - 1 - k; padding keeps its place.
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
        """[total], int64, the place in `forward_index` of each word of `backward_index`; its own inverse."""
        rows, words = self.shape
        place = self.forward_index.new_empty(rows * words)
        place[self.forward_index] = torch.arange(len(self.forward_index), device=place.device)
        return place[self.backward_index]

    def pack(self, padded: Tensor, index: Tensor) -> Tensor:
        """(rows, words, width) -> [total, width] in the order of `index`, the forward or the backward one."""
        return padded.flatten(0, 1).index_select(0, index)

    def unpack(self, packed: Tensor, index: Tensor) -> Tensor:
        """[total, width] -> (rows, words, width), zero at padding."""
        rows, words = self.shape
        flat = packed.new_zeros(rows * words, packed.shape[-1]).index_copy(0, index, packed)
        return flat.view(rows, words, packed.shape[-1])
