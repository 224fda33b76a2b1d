"""The state of a biLSTM between two batches."""

from typing import NamedTuple

import torch
from torch import Tensor


class ElmoState(NamedTuple):
    """State of all layers and directions after a batch: a value to pass on as `initial_state`, never kept by a model.

    Row r belongs to row r of the next batch. Both originals carry state so, over each batch, for ever.

    Attributes:
        hidden: (num_hidden_layers, 2, rows, projection_size), directions forward, backward; the projected output
            before the skip connection.
        cell: (num_hidden_layers, 2, rows, cell_size), float32 or wider.
    """

    hidden: Tensor
    cell: Tensor

    def detach(self) -> "ElmoState":
        """The same values cut from the graph that made them (truncated back-propagation through time)."""
        return ElmoState(self.hidden.detach(), self.cell.detach())

    def reset(self, rows: Tensor) -> "ElmoState":
        """The same values, but zero, as before a first word, where `rows` is true.

        Args:
            rows: (2, rows) bool, directions forward, backward; on the state's device.

        Raises:
            ValueError: another shape or type.
        """
        expected = tuple(self.hidden.shape[1:3])
        if tuple(rows.shape) != expected or rows.dtype != torch.bool:
            raise ValueError(
                f"rows has shape {tuple(rows.shape)} and dtype {rows.dtype}: expected {expected} and torch.bool, one "
                "truth value for each direction and row of the state"
            )
        where = rows[None, :, :, None]
        return ElmoState(self.hidden.masked_fill(where, 0), self.cell.masked_fill(where, 0))
