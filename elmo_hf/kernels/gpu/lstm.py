"""The recurrence of `operators.bidirectional_lstm` on a GPU, with both directions in one batched matmul per step.

`bidirectional_lstm` takes tensors and flags, and returns a short reason if it cannot be used. It builds on these files,
lowest first: `step_kernels`, everything between two matmuls fused into one Triton kernel; `workspace`, one step on
static buffers; `graphs`, CUDA graphs of steps; `passes`, forward and backward pass over a batch; `autograd`;
`availability`.

Gates and matmuls are in the dtype of the inputs, point-wise operations and the cell in float32. Everything but the
graphs also runs on CPU tensors under Triton's interpreter.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from .autograd import LARGEST_GRAPHED_BATCH, packed_lstm
from .availability import DTYPES, fuses, has_kernels, mode
from .graphs import owners
from .workspace import BidirectionalWeights, LstmConstants


class DirectionWeights(Protocol):
    """Weights of one direction of a layer: any object with these attributes."""

    @property
    def input_weight(self) -> Tensor: ...  # [4H, width]
    @property
    def input_bias(self) -> Tensor | None: ...  # [4H]
    @property
    def hidden_weight(self) -> Tensor: ...  # [4H, P]
    @property
    def output_weight(self) -> Tensor | None: ...  # [P, H]


def bidirectional_lstm(
    inputs: tuple[Tensor, Tensor],
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    forward: DirectionWeights,
    backward: DirectionWeights,
    *,
    cell_clip: float | None,
    projection_clip: float | None,
    forget_bias: float,
    indices: tuple[Tensor, Tensor] | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor] | str:
    """Run both directions of a layer; differentiable once.

    Args:
        inputs: packed [total, width], forward and backward, each in its own reading order; with `indices`, [n, width].
        batch_sizes: number of rows at each step, never increasing; their sum is `total`.
        hidden: (2, rows, P); cell: (2, rows, H), float32: initial states, forward and backward.
        forward, backward: weights of the two directions.
        cell_clip, projection_clip: bounds of the absolute value; `None` for none. Without `output_weight`,
            `projection_clip` has no effect.
        forget_bias: added to the forget gate.
        indices: for each direction [total], int64: word k is row `index[k]` of its `inputs`.
        lengths: [rows] on the device, for a batch packed with its padding: all rows are in every step, row r ends after
            `lengths[r]` steps, and its later outputs are zero. Inference only.

    Returns:
        Outputs of both directions [total, P] in the order of their words; final hidden and cell, shaped as the initial
        ones. Or the reason why this kernel cannot be used.
    """
    reason = _declines(inputs, cell, (forward, backward))
    if reason is not None:
        return reason
    if inputs[0].is_cuda and torch.cuda.is_current_stream_capturing() and batch_sizes[0] != batch_sizes[-1]:
        return "a CUDA graph capture with rows of different lengths, whose host memory a replay would no longer find"
    pairs = [
        (getattr(forward, name), getattr(backward, name))
        for name in ("input_weight", "input_bias", "hidden_weight", "output_weight")
    ]
    weights = BidirectionalWeights(pairs[0], pairs[1], pairs[2], None if forward.output_weight is None else pairs[3])
    constants = LstmConstants(cell_clip, projection_clip, forget_bias)
    if indices is not None:
        inputs = inputs[0].index_select(0, indices[0]), inputs[1].index_select(0, indices[1])
    dtype = compute_dtype(inputs[0])
    inputs, hidden = (inputs[0].to(dtype), inputs[1].to(dtype)), hidden.to(dtype)
    ways = {"graphs": mode() != "eager", "fuses": fuses(inputs[0].device, dtype)}
    return packed_lstm(inputs, batch_sizes, hidden, cell, weights, constants, lengths=lengths, **ways)


def serves_padded(words: Tensor, cell: Tensor, layers: Sequence[tuple[DirectionWeights, DirectionWeights]]) -> bool:
    """True if `bidirectional_lstm` supports all layers of a batch packed with padding, with lengths on the GPU.

    Args:
        words: (batch, words, width); cell: (layers, 2, rows, H), with at least as many rows as the batch.
        layers: weights of the forward and the backward direction of each layer.
    """
    # In larger batches, computing padding costs more than copying the lengths to the host.
    if torch.is_grad_enabled() or not 0 < words.shape[0] <= LARGEST_GRAPHED_BATCH or not words.shape[1]:
        return False
    return all(_declines((words, words), cell, pair) is None for pair in layers)


def release_buffers() -> None:
    """Free the memory of all graphs and their buffers."""
    owners.clear()


def compute_dtype(inputs: Tensor) -> torch.dtype:
    """Dtype of the matmuls: autocast's if enabled, otherwise that of the inputs."""
    kind = inputs.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype


def _declines(inputs: Sequence[Tensor], cell: Tensor, pair: Sequence[DirectionWeights]) -> str | None:
    """Reason why a call is not supported; `None` if it is."""
    device, dtype = inputs[0].device, compute_dtype(inputs[0])
    if not has_kernels(device, dtype):
        return f"not on a GPU with working Triton kernels for {dtype}"
    if cell.dtype != torch.float32:
        return f"a cell in {cell.dtype}"
    weights: list[Tensor] = []
    for each in pair:
        if each.input_bias is None:
            return "no bias"
        weights += [each.input_weight, each.input_bias, each.hidden_weight]
        weights += [] if each.output_weight is None else [each.output_weight]
    # A sharded weight is a subclass of a tensor. Autocast casts weights, whatever their dtype.
    dtypes = DTYPES if torch.is_autocast_enabled(device.type) else (dtype,)
    if any(tensor.device != device for tensor in (*inputs, cell)) or not all(
        type(weight) in (nn.Parameter, Tensor) and weight.dtype in dtypes and weight.device == device
        for weight in weights
    ):
        return "weights of several dtypes, devices or kinds"
    return None
