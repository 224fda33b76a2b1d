"""Recurrent layers of task models: stacked biLSTMs in which each layer reads both directions of the layer below.

Two kinds of cell: the plain LSTM, and the highway LSTM (Zhang et al. 2016; He et al. 2017) of AllenNLP's
`stacked_bidirectional_lstm`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .configuration_elmo import ElmoConfig
from .initialization import glorot_bound, starting_with
from .operators import projected_lstm, reference_lstm
from .packing import PackedBatch


class ElmoTaskLstm(nn.Module):
    """One direction of one layer: an LSTM without projection and clipping; gates in the order i, f, g, o.

    `config.task_forget_bias` is added to the forget gate at run time. `config.task_recurrent_dropout` is variational
    dropout on the output, which is also the recurrent state: one mask for all words of a row, in training.
    """

    input_gates, state_gates = 4, 4

    def __init__(self, config: ElmoConfig, input_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.forget_bias = float(config.task_forget_bias)
        self.recurrent_dropout = config.task_recurrent_dropout
        # The bound of one kernel for input and recurrence together, as TensorFlow's.
        scale = glorot_bound(input_size + size, self.state_gates * size)
        self.input_proj = starting_with(nn.Linear(input_size, self.input_gates * size), "uniform", scale)
        self.hidden_proj = starting_with(nn.Linear(size, self.state_gates * size, bias=False), "uniform", scale)

    def forward(
        self, inputs: Tensor, batch_sizes: list[int], hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Packed [total, input_size] -> packed [total, size], and the final hidden and cell [rows, size].

        `batch_sizes` are the numbers of rows at each step; rows that have ended keep their state.
        """
        kept = None
        if self.training and self.recurrent_dropout:
            kept = functional.dropout(torch.ones_like(hidden), self.recurrent_dropout)
        return self._run(inputs, batch_sizes, hidden, cell, kept)

    def _run(
        self, inputs: Tensor, batch_sizes: list[int], hidden: Tensor, cell: Tensor, kept: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the recurrence; `kept` [rows, size], the dropout mask, scales every output of a row."""
        settings: dict[str, Any] = {"cell_clip": None, "projection_clip": None, "forget_bias": self.forget_bias}
        state = inputs, batch_sizes, hidden, cell, self.input_proj, self.hidden_proj
        if kept is None:
            return projected_lstm(*state, None, **settings)
        return reference_lstm(*state, lambda exposed: exposed * kept[: len(exposed)], **settings)


class ElmoHighwayLstm(ElmoTaskLstm):
    """Highway LSTM: a fifth gate r mixes the output with a projection of the input.

    With a = input_proj(x) of six parts, s = a[:5] + hidden_proj(h), and gates i, f, g, o, r in this order::

        c' = sigmoid(s_i) * tanh(s_g) + sigmoid(s_f + forget_bias) * c
        h' = sigmoid(s_r) * sigmoid(s_o) * tanh(c') + (1 - sigmoid(s_r)) * a_6

    Source: AllenNLP `modules/augmented_lstm.py`.
    """

    input_gates, state_gates = 6, 5

    def _run(
        self, inputs: Tensor, batch_sizes: list[int], hidden: Tensor, cell: Tensor, kept: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        outputs, finished = [inputs.new_zeros(0, self.size)], []
        for gates in self.input_proj(inputs).split(batch_sizes):
            rows = len(gates)
            finished.append((hidden[rows:], cell[rows:]))
            gates, carried = gates.to(cell.dtype).split([5 * self.size, self.size], dim=-1)
            i, f, g, o, r = (gates + self.hidden_proj(hidden[:rows])).chunk(5, dim=-1)
            cell = torch.sigmoid(i) * torch.tanh(g) + torch.sigmoid(f + self.forget_bias) * cell[:rows]
            mixed = torch.lerp(carried, torch.sigmoid(o) * torch.tanh(cell), torch.sigmoid(r))
            hidden = mixed.to(inputs.dtype) if kept is None else mixed.to(inputs.dtype) * kept[:rows]
            outputs.append(hidden)
        # Rows ended shortest first.
        last_hidden, last_cell = (torch.cat(part) for part in zip((hidden, cell), *finished[::-1], strict=True))
        return torch.cat(outputs), last_hidden, last_cell


CELLS: dict[str, type[ElmoTaskLstm]] = {"lstm": ElmoTaskLstm, "highway_lstm": ElmoHighwayLstm}


class ElmoTaskLayer(nn.Module):
    """One biLSTM layer: both directions read the outputs of both directions of the layer below.

    Args:
        config: its `task_encoder` names the kind of cell.
        input_size: width of the inputs.
        size: width of each direction.
    """

    def __init__(self, config: ElmoConfig, input_size: int, size: int) -> None:
        super().__init__()
        self.forward_lstm = CELLS[config.task_encoder](config, input_size, size)
        self.backward_lstm = CELLS[config.task_encoder](config, input_size, size)

    def forward(
        self, inputs: Tensor, packing: PackedBatch, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run both directions.

        Args:
            inputs: packed [total, input_size], first word first.
            packing: the packing of the batch.
            state: hidden and cell (2, rows, size) of both directions, rows in packed order; zeros by default.

        Returns:
            [total, 2 * size], packed as the inputs, forward direction first; the final state, shaped as `state`.
        """
        if state is None:
            zeros = inputs.new_zeros(2, packing.shape[0], self.forward_lstm.size)
            state = zeros, zeros.to(torch.promote_types(inputs.dtype, torch.float32))
        (forward_hidden, backward_hidden), (forward_cell, backward_cell) = state
        sizes, mirrored = packing.batch_sizes, packing.mirrored
        forward, *after_forward = self.forward_lstm(inputs, sizes, forward_hidden, forward_cell)
        backward, *after_backward = self.backward_lstm(inputs[mirrored], sizes, backward_hidden, backward_cell)
        hidden, cell = (torch.stack(pair) for pair in zip(after_forward, after_backward, strict=True))
        # The mirroring permutation is its own inverse.
        return torch.cat([forward, backward[mirrored]], dim=-1), (hidden, cell)


def task_layers(config: ElmoConfig, input_size: int, size: int, count: int) -> nn.ModuleList:
    """A stack of `count` biLSTM layers, each direction `size` wide."""
    return nn.ModuleList(ElmoTaskLayer(config, 2 * size if index else input_size, size) for index in range(count))
