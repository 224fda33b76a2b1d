"""`operators.reference_lstm` for training, in compiled C.

Everything is float32. The forward pass keeps for every word the activated gates, the raw cell, the input of the
projection, and the raw output: 6H + P floats, plus P for the clipped outputs if there is a clip.
"""

import ctypes
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .builder import TrainingBackward, TrainingForward, native_library
from .memory_pages import in_huge_pages


def native_training_lstm(
    inputs: Tensor,
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    input_weight: Tensor,
    input_bias: Tensor,
    hidden_weight: Tensor,
    output_weight: Tensor | None,
    *,
    cell_clip: float | None,
    projection_clip: float | None,
    forget_bias: float,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Run one direction of one layer; differentiable once.

    Args:
        inputs: [total, I], on a CPU like all the rest.
        hidden: [rows, P]; cell: [rows, H].
        input_weight: [4H, I]; input_bias: [4H]; hidden_weight: [4H, P]; output_weight: [P, H], or `None` where H == P.
            See `operators.reference_lstm` for the other arguments.

    Returns:
        The results of `operators.reference_lstm`, float32; `None` if there is no compiled library.
    """
    library = native_library()
    if library is None or not batch_sizes:
        return None
    given = (inputs, hidden, cell, input_weight, input_bias, hidden_weight, output_weight)
    _check(inputs, batch_sizes, *given[1:])
    results = _NativeLstm.apply(
        *_padded(library.elmo_panel(), *given),
        batch_sizes,
        math.inf if cell_clip is None else cell_clip,
        math.inf if projection_clip is None or output_weight is None else projection_clip,
        forget_bias,
    )
    widths = (hidden.shape[1], hidden.shape[1], cell.shape[1])
    outputs, final_hidden, final_cell = (
        result if result.shape[1] == width else result[:, :width] for result, width in zip(results, widths, strict=True)
    )
    return outputs, final_hidden, final_cell


def _padded(
    panel: int,
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    input_weight: Tensor,
    input_bias: Tensor,
    hidden_weight: Tensor,
    output_weight: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Pad all widths of the tensors with zeros to multiples of `panel`.

    A padded cell stays 0, since its candidate is tanh(0), and does not affect other values or gradients.
    """
    more_inputs, more_width, more_size = (-given.shape[1] % panel for given in (inputs, hidden, cell))
    if not (more_inputs or more_width or more_size):
        return inputs, hidden, cell, input_weight, input_bias, hidden_weight, output_weight

    def gates(tensor: Tensor, more: int) -> Tensor:
        return functional.pad(tensor.unflatten(0, (4, -1)), (0, more, 0, more_size)).flatten(0, 1)

    return (
        functional.pad(inputs, (0, more_inputs)),
        functional.pad(hidden, (0, more_width)),
        functional.pad(cell, (0, more_size)),
        gates(input_weight, more_inputs),
        gates(input_bias.unsqueeze(1), 0).squeeze(1),
        gates(hidden_weight, more_width),
        None if output_weight is None else functional.pad(output_weight, (0, more_size, 0, more_width)),
    )


def _check(inputs: Tensor, batch_sizes: Sequence[int], hidden: Tensor, cell: Tensor, *weights: Tensor | None) -> None:
    """Raise `ValueError` for arguments that would make the C code read or write out of bounds."""
    if min(batch_sizes) < 1 or any(one < other for one, other in itertools.pairwise(batch_sizes)):
        raise ValueError(f"batch_sizes are {list(batch_sizes)}: expected positive numbers that never grow")
    if sum(batch_sizes) != len(inputs):
        raise ValueError(f"batch_sizes are of {sum(batch_sizes)} words: expected {len(inputs)}, those of inputs")
    if len(hidden) != len(cell) or len(hidden) < batch_sizes[0]:
        raise ValueError(
            f"hidden and cell have {len(hidden)} and {len(cell)} rows: expected the same, at least {batch_sizes[0]}"
        )
    width, size = hidden.shape[1], cell.shape[1]
    names = ("input_weight", "input_bias", "hidden_weight", "output_weight")
    shapes = ((4 * size, inputs.shape[1]), (4 * size,), (4 * size, width), (width, size))
    for name, weight, shape in zip(names, weights, shapes, strict=True):
        if weight is not None and weight.shape != shape:
            raise ValueError(f"{name} has shape {tuple(weight.shape)}: expected {shape}")
    if weights[-1] is None and width != size:
        raise ValueError(
            f"output_weight=None of a cell of {size} values and a state of {width}: expected the same number"
        )


class _NativeLstm(torch.autograd.Function):
    """Autograd function of `native_training_lstm`."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        hidden: Tensor,
        cell: Tensor,
        input_weight: Tensor,
        input_bias: Tensor,
        hidden_weight: Tensor,
        output_weight: Tensor | None,
        batch_sizes: Sequence[int],
        cell_clip: float,
        projection_clip: float,
        forget_bias: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        given = (inputs, hidden, cell, input_weight, input_bias, hidden_weight, output_weight)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in given]
        wide = [None if tensor is None else tensor.detach().float().contiguous() for tensor in given]
        total, width, size = len(inputs), hidden.shape[1], cell.shape[1]
        gates, raw_cells, cell_outputs = (
            in_huge_pages(count * total, torch.float32) for count in (4 * size, size, size)
        )
        outputs = _empty(total, width)
        raw_outputs = outputs if math.isinf(projection_clip) else _empty(total, width)
        # Rows without words keep their state.
        final_hidden, final_cell = (
            state.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
            for state in (hidden, cell)
        )
        ctx.batch_sizes = torch.tensor(batch_sizes, dtype=torch.int64, device="cpu")
        ctx.settings = cell_clip, projection_clip, forget_bias
        kept = [*wide, gates, raw_cells, cell_outputs, raw_outputs, outputs]
        job = _job(ctx, kept)
        job.final_hidden, job.final_cell = final_hidden.data_ptr(), final_cell.data_ptr()
        _run("elmo_training_forward", job)
        ctx.save_for_backward(*kept)
        return outputs, final_hidden, final_cell

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, output_gradient: Tensor, final_hidden_gradient: Tensor, final_cell_gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        kept = ctx.saved_tensors
        # Gradients of the final state; the kernel overwrites them with those of the initial state.
        state = [final_hidden_gradient.float().contiguous(), final_cell_gradient.float().contiguous()]
        hidden_gradient, cell_gradient = (part.clone() for part in state)
        shapes = [None if tensor is None else tensor.shape for tensor in kept[:7]]
        needed = [
            None if shape is None or not wanted else _empty(*shape)
            for shape, wanted in zip(shapes, ctx.needs_input_grad, strict=False)
        ]
        output_gradient = output_gradient.float().contiguous()
        job = TrainingBackward(
            forward=_job(ctx, kept),
            output_gradient=output_gradient.data_ptr(),
            hidden_gradient=hidden_gradient.data_ptr(),
            cell_gradient=cell_gradient.data_ptr(),
            input_gradient=_address(needed[0]),
            input_weight_gradient=_address(needed[3]),
            bias_gradient=_address(needed[4]),
            hidden_weight_gradient=_address(needed[5]),
            output_weight_gradient=_address(needed[6]),
        )
        _run("elmo_training_backward", job)
        gradients = [needed[0], hidden_gradient, cell_gradient, *needed[3:]]
        return (
            *(
                gradient.to(dtype) if wanted and gradient is not None else None
                for gradient, dtype, wanted in zip(gradients, ctx.dtypes, ctx.needs_input_grad, strict=False)
            ),
            *[None] * 4,
        )


def _job(ctx: Any, kept: Sequence[Tensor | None]) -> TrainingForward:
    """Arguments of a C call. `kept` holds the seven tensors and what the forward pass saves for the backward pass."""
    names = (
        *("inputs", "hidden", "cell", "input_weight", "bias", "hidden_weight", "output_weight"),
        *("gates", "raw_cells", "cell_outputs", "raw_outputs", "outputs"),
    )
    inputs, hidden, cell = kept[:3]
    assert inputs is not None and hidden is not None and cell is not None
    cell_clip, projection_clip, forget_bias = ctx.settings
    return TrainingForward(
        steps=len(ctx.batch_sizes),
        running=ctx.batch_sizes.data_ptr(),
        input_width=inputs.shape[1],
        width=hidden.shape[1],
        size=cell.shape[1],
        cell_clip=cell_clip,
        projection_clip=projection_clip,
        forget_bias=forget_bias,
        **{name: _address(tensor) for name, tensor in zip(names, kept, strict=True)},
    )


def _run(name: str, job: ctypes.Structure) -> None:
    library = native_library()
    assert library is not None
    if getattr(library, name)(ctypes.byref(job), torch.get_num_threads()):
        raise MemoryError("no memory for the intermediate values of a biLSTM layer: use smaller batches")


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")
