"""The recurrence of ELMo: a projected LSTM with clipped cell and clipped projection.

`reference_lstm` defines the operator. Everything that runs an ELMo layer calls `projected_lstm`, the one place that
chooses an implementation; a faster one has the reference's signature and is tested against it, gradients included.

Source: TensorFlow 1's `LSTMCell(num_proj, cell_clip, proj_clip)` as bilm-tf uses it, and AllenNLP's
`LstmCellWithProjection`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .lstm_training_elmo import trainable_weights, training_lstm

Product = Callable[[Tensor], Tensor]


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


def reference_lstm(
    inputs: Tensor,
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    input_product: Product,
    hidden_product: Product,
    output_product: Product | None,
    *,
    cell_clip: float | None,
    projection_clip: float | None,
    forget_bias: float,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Run one direction of one layer over packed sequences.

    With gates i, f, g, o in this order::

        a  = input_product(x) + hidden_product(h)
        c' = clip(sigmoid(a_f + forget_bias) * c + sigmoid(a_i) * tanh(a_g), cell_clip)
        h' = clip(output_product(sigmoid(a_o) * tanh(c')), projection_clip)

    Clipping is part of the model, in training and in inference. Gates are computed in the model's dtype; the cell and
    everything point-wise in float32 or wider, so that bfloat16 does not round the running sum at each step.

    Args:
        inputs: [total, input width], the words of step 0 of all rows, then those of step 1, and so on.
        batch_sizes: rows running at each step, never growing; their sum is `total`.
        hidden: [rows, P] initial projected output. Rows past `batch_sizes[0]` have no words and keep their state.
        cell: [rows, H] initial cell.
        input_product: x [n, input width] -> [n, 4H], with the bias.
        hidden_product: h [n, P] -> [n, 4H], without bias.
        output_product: [n, H] -> [n, P]; `None` for a cell without projection (H == P), which is not clipped then.
        cell_clip, projection_clip: bounds of the absolute value; `None` for none.
        forget_bias: added to the forget gate.

    Returns:
        outputs [total, P] in the order of `inputs`; final hidden [rows, P] and cell [rows, H] of every row, each after
        its own last step.
    """
    outputs: list[Tensor] = []
    finished: list[tuple[Tensor, Tensor]] = []
    # The input product of all steps at once: one large matrix product instead of many small ones.
    for gates in input_product(inputs).split(list(batch_sizes)) if batch_sizes else ():
        running = gates.shape[0]
        if running < hidden.shape[0]:
            finished.append((hidden[running:], cell[running:]))
            hidden, cell = hidden[:running], cell[:running]
        input_gate, forget_gate, candidate, output_gate = (gates + hidden_product(hidden)).to(cell.dtype).chunk(4, -1)
        cell = torch.sigmoid(forget_gate + forget_bias) * cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
        if cell_clip is not None:
            cell = cell.clamp(-cell_clip, cell_clip)
        exposed = (torch.sigmoid(output_gate) * torch.tanh(cell)).to(inputs.dtype)
        if output_product is None:
            hidden = exposed
        else:
            hidden = output_product(exposed)
            if projection_clip is not None:
                hidden = hidden.clamp(-projection_clip, projection_clip)
        outputs.append(hidden)
    finished.append((hidden, cell))
    # Rows stopped shortest first, so the pieces stand in reverse row order.
    final_hidden = torch.cat([piece[0].to(outputs[0].dtype if outputs else hidden.dtype) for piece in finished[::-1]])
    final_cell = torch.cat([piece[1] for piece in finished[::-1]])
    packed = torch.cat(outputs) if outputs else inputs.new_zeros(0, hidden.shape[-1])
    return packed, final_hidden, final_cell


def projected_lstm(
    inputs: Tensor,
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    input_proj: nn.Module,
    hidden_proj: nn.Module,
    output_proj: nn.Module | None,
    *,
    cell_clip: float | None,
    projection_clip: float | None,
    forget_bias: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the implementation of one direction of one layer; arguments and results as `reference_lstm`.

    It receives the modules and not their weights: a layer wrapped by an adapter (LoRA), a quantiser or an offloading
    hook must be called. An implementation that reads weights may serve only layers that are plain `nn.Linear`.
    """
    weights = trainable_weights(inputs, cell, input_proj, hidden_proj, output_proj)
    if weights is not None:
        return training_lstm(
            inputs,
            batch_sizes,
            hidden,
            cell,
            weights,
            cell_clip=cell_clip,
            projection_clip=projection_clip,
            forget_bias=forget_bias,
        )
    return reference_lstm(
        inputs,
        batch_sizes,
        hidden,
        cell,
        input_proj,
        hidden_proj,
        output_proj,
        cell_clip=cell_clip,
        projection_clip=projection_clip,
        forget_bias=forget_bias,
    )
