"""The recurrence of ELMo: a projected LSTM with clipped cell and clipped projection.

`reference_lstm` defines the operator. A biLSTM layer calls `bidirectional_lstm`, a single direction `projected_lstm`:
the two places that choose an implementation. A faster one says what it serves, has the reference's results, and is
tested against it, gradients included.

Source: TensorFlow 1's `LSTMCell(num_proj, cell_clip, proj_clip)` as bilm-tf uses it, and AllenNLP's
`LstmCellWithProjection`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from elmo_hf.kernels.cpu.inference import inference_lstm, inference_recurrence
from elmo_hf.kernels.gpu.lstm import gpu_lstm, serves
from elmo_hf.kernels.training import trainable_weights, training_lstm

from .packing import PaddedSizes
from .prepared_weights import release

Product = Callable[[Tensor], Tensor]


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
    index: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Run one direction of one layer over packed sequences.

    With gates i, f, g, o in this order::

        a  = input_product(x) + hidden_product(h)
        c' = clip(sigmoid(a_f + forget_bias) * c + sigmoid(a_i) * tanh(a_g), cell_clip)
        h' = clip(output_product(sigmoid(a_o) * tanh(c')), projection_clip)

    Clipping is part of the model, in training and in inference. Gates are computed in the model's dtype; the cell and
    everything point-wise in float32 or wider, so that bfloat16 does not round the running sum at each step.

    Args:
        inputs: [total, input width], the words of step 0 of all rows, then those of step 1, and so on; with `index`,
            [n, input width] in any order.
        batch_sizes: rows running at each step, never growing; their sum is `total`.
        hidden: [rows, P] initial projected output. Rows past `batch_sizes[0]` have no words and keep their state.
        cell: [rows, H] initial cell.
        input_product: x [n, input width] -> [n, 4H], with the bias.
        hidden_product: h [n, P] -> [n, 4H], without bias.
        output_product: [n, H] -> [n, P]; `None` for a cell without projection (H == P), which is not clipped then.
        cell_clip, projection_clip: bounds of the absolute value; `None` for none.
        forget_bias: added to the forget gate.
        index: [total], int64: word k is `inputs[index[k]]`, for words that recur.

    Returns:
        outputs [total, P] in the order of the words; final hidden [rows, P] and cell [rows, H] of every row, each after
        its own last step.
    """
    if index is not None:
        inputs = inputs.index_select(0, index)
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


def bidirectional_lstm(
    inputs: tuple[Tensor, Tensor],
    batch_sizes: list[int],
    hidden: Tensor,
    cell: Tensor,
    forward_lstm: nn.Module,
    backward_lstm: nn.Module,
    indices: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose the implementation of a layer: both directions, which never see each other.

    Args:
        inputs: packed [total, P], forward and backward, each in its own reading order; with `indices`, [n, P].
        batch_sizes: rows running at each step, never growing.
        hidden: (2, rows, P); cell: (2, rows, H): initial states, forward and backward.
        forward_lstm, backward_lstm: the modules of both directions: called with words, batch sizes, hidden and cell
            they give outputs, hidden and cell; they have `input_proj`, `hidden_proj`, `output_proj`, and as constants
            `cell_clip`, `projection_clip`, `forget_bias`. An implementation that does not call them must
            make sure that nothing is attached to them or to their linear maps.
        indices: for each direction [total], int64: word k is row `index[k]` of its `inputs`.

    Returns:
        The outputs of both directions [total, P], in the order of their words; the final hidden and cell, shaped as
        the initial ones.
    """
    if isinstance(batch_sizes, PaddedSizes) or serves(inputs, cell, forward_lstm, backward_lstm):
        return gpu_lstm(inputs, batch_sizes, hidden, cell, forward_lstm, backward_lstm, indices)
    outputs, finals = [], []
    for direction, lstm in enumerate((forward_lstm, backward_lstm)):
        keywords = {} if indices is None else {"index": indices[direction]}
        output, *final = lstm(inputs[direction], batch_sizes, hidden[direction], cell[direction], **keywords)
        outputs.append(output)
        finals.append(final)
    last_hidden, last_cell = (torch.stack(pair) for pair in zip(*finals, strict=True))
    return outputs[0], outputs[1], last_hidden, last_cell


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
    index: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the implementation of one direction of one layer; arguments and results as `reference_lstm`.

    It receives the modules and not their weights: a layer wrapped by an adapter (LoRA), a quantiser or an offloading
    hook must be called. An implementation that reads weights may serve only layers that are plain `nn.Linear`.
    """
    settings: dict[str, Any] = {
        "cell_clip": cell_clip,
        "projection_clip": projection_clip,
        "forget_bias": forget_bias,
    }
    weights = trainable_weights(inputs, cell, input_proj, hidden_proj, output_proj)
    layers = input_proj, hidden_proj, output_proj
    if weights is not None:
        for layer in layers:
            release(layer)
        words = inputs if index is None else inputs.index_select(0, index)
        return training_lstm(words, batch_sizes, hidden, cell, weights, **settings)
    recurrence = inference_recurrence(inputs, hidden, cell, layers, **settings)
    if recurrence is not None:
        return inference_lstm(inputs, batch_sizes, hidden, cell, recurrence, index=index)
    return reference_lstm(inputs, batch_sizes, hidden, cell, *layers, **settings, index=index)
