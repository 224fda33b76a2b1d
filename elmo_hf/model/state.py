"""Recurrent state of a biLSTM between two batches."""

from typing import NamedTuple

import torch
from torch import Tensor


class ElmoState(NamedTuple):
    """State of all layers and directions after a batch, to pass as `initial_state` of the next batch.

    Models never store it. Row r belongs to row r of the next batch. Both original implementations carry state across
    all batches in this way.

    Attributes:
        hidden: (num_hidden_layers, 2, rows, projection_size), directions forward, backward; the projected output
            before the skip connection.
        cell: (num_hidden_layers, 2, rows, cell_size), float32 or wider.
    """

    hidden: Tensor
    cell: Tensor

    def detach(self) -> "ElmoState":
        """The same values detached from the autograd graph, for truncated backpropagation through time."""
        return ElmoState(self.hidden.detach(), self.cell.detach())

    def reset(self, rows: Tensor) -> "ElmoState":
        """A copy that is zero, the state before the first word, where `rows` is true.

        Args:
            rows: (2, rows), bool, directions forward, backward; on the state's device.

        Raises:
            ValueError: another shape or dtype.
        """
        expected = tuple(self.hidden.shape[1:3])
        if tuple(rows.shape) != expected or rows.dtype != torch.bool:
            raise ValueError(
                f"rows has shape {tuple(rows.shape)} and dtype {rows.dtype}: expected {expected} and torch.bool, for "
                "each direction and row of the state"
            )
        where = rows[None, :, :, None]
        return ElmoState(self.hidden.masked_fill(where, 0), self.cell.masked_fill(where, 0))
