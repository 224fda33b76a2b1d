"""The recurrence over packed sequences with a hand-written backward pass; differentiable once.

The forward pass saves gates, unclipped cells and unclipped outputs. The gradient of each weight matrix is one matmul
over all steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .graphs import captures
from .passes import Gradients, Layout, Results, Trace, run_backward, run_forward, without_autocast
from .workspace import BidirectionalWeights, LstmConstants

# With more rows, a step takes the GPU longer than its launch, so graphs gain nothing.
LARGEST_GRAPHED_BATCH = 512


class _BidirectionalLstm(torch.autograd.Function):
    """Autograd function of `packed_lstm`.

    Arguments: two inputs, hidden, cell, the eight weights in pairs, then layout, constants, `graphs` and `fuses`.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        tensors, (layout, constants, graphs, fuses) = arguments[:12], arguments[12:]
        ctx.layout, ctx.constants, ctx.graphs, ctx.fuses = layout, constants, graphs, fuses
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in tensors]
        inputs, (hidden, cell), weights = tensors[:2], tensors[2:4], _weights(tensors[4:])
        with without_autocast(hidden.device):
            use = graphs and captures.work(hidden.device)
            results, trace = run_forward(
                inputs, layout, hidden, cell, weights, constants, saves=True, graphs=use, fuses=fuses
            )
        ctx.save_for_backward(*tensors[:2], *tensors[4:], *cast("Trace", trace))
        return results.outputs[:, 0], results.outputs[:, 1], results.hidden, results.cell

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, weights, trace = saved[:2], _weights(saved[2:10]), Trace(*saved[10:])
        with without_autocast(upstream[0].device):
            use = ctx.graphs and captures.work(upstream[0].device)
            results = Results(torch.stack(upstream[:2], dim=1), *upstream[2:])
            gradients = run_backward(results, ctx.layout, trace, weights, ctx.constants, graphs=use, fuses=ctx.fuses)
            found = _argument_gradients(ctx.needs_input_grad, inputs, trace, weights, gradients)
        cast_back = (
            None if gradient is None else gradient.to(dtype) for gradient, dtype in zip(found, ctx.dtypes, strict=True)
        )
        return *cast_back, None, None, None, None


def _weights(flat: Sequence[Any]) -> BidirectionalWeights:
    pairs = [(flat[place], flat[place + 1]) for place in range(0, 8, 2)]
    return BidirectionalWeights(pairs[0], pairs[1], pairs[2], None if pairs[3][0] is None else pairs[3])


def _argument_gradients(
    needed: Sequence[bool], inputs: Sequence[Tensor], trace: Trace, weights: BidirectionalWeights, gradients: Gradients
) -> list[Tensor | None]:
    """Gradients of the first twelve arguments; that of a weight is one matmul over all steps."""

    def pair(place: int, compute: Callable[[int], Tensor]) -> list[Tensor | None]:
        return [compute(direction) if needed[place + direction] else None for direction in range(2)]

    def of(tensor: Tensor, direction: int) -> Tensor:
        return tensor[:, direction]  # [total, width]

    gates, dtype = gradients.gates, gradients.gates.dtype
    biases = gates.sum(dim=0) if any(needed[6:8]) else gates  # [2, 4H]
    return [
        *pair(0, lambda way: torch.mm(of(gates, way), weights.input_weights[way].to(dtype))),
        gradients.hidden if needed[2] else None,
        gradients.cell if needed[3] else None,
        *pair(4, lambda way: torch.mm(of(gates, way).T, inputs[way])),
        *pair(6, lambda way: biases[way]),
        *pair(8, lambda way: torch.mm(of(gates, way).T, of(trace.hidden_before, way))),
        *pair(10, lambda way: torch.mm(of(gradients.raw_outputs, way).T, of(gradients.exposed, way))),
    ]


def packed_lstm(
    inputs: tuple[Tensor, Tensor],
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    weights: BidirectionalWeights,
    constants: LstmConstants,
    *,
    lengths: Tensor | None = None,
    graphs: bool = True,
    fuses: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run both directions over packed sequences; differentiable once.

    Args:
        inputs: [total, width], forward and backward, in the dtype of the matmuls.
        batch_sizes: number of rows at each step, at least one, never increasing; their sum is `total`.
        hidden: (2, rows, P), in the dtype of the matmuls; cell: (2, rows, H), float32.
        weights: any dtype; they are cast to that of the inputs, and their gradients back.
        lengths: [rows] on the device, for a batch packed with its padding; inference only.
        graphs: replay CUDA graphs if they can be captured; otherwise launch each kernel.
        fuses: compute gates' matmul and cell in one kernel; for GPUs and dtypes that `can_fuse`.

    Returns:
        As `lstm.bidirectional_lstm`.

    Raises:
        ValueError: `lengths` together with gradients.
    """
    if weights.output_weights is None:
        constants = constants._replace(projection_clip=None)
    graphs = graphs and batch_sizes[0] <= LARGEST_GRAPHED_BATCH
    with without_autocast(hidden.device):
        layout = Layout.of(tuple(batch_sizes), hidden.device, lengths)
    tensors = (*inputs, hidden, cell, *weights.flat())
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        if lengths is not None:
            raise ValueError("lengths on the device are for inference only: with gradients, pack without padding")
        return cast("Any", _BidirectionalLstm.apply(*tensors, layout, constants, graphs, fuses))
    with without_autocast(hidden.device):
        use = graphs and captures.work(hidden.device)
        results, _ = run_forward(inputs, layout, hidden, cell, weights, constants, saves=False, graphs=use, fuses=fuses)
    return results.outputs[:, 0], results.outputs[:, 1], results.hidden, results.cell
