"""One step of both directions of a layer, forward and backward, on static buffers, so that CUDA graphs can capture it.

A step is two batched matmuls, each followed by a Triton kernel (`step_kernels`, imported at the first run) that does
everything else; if the shape `fuses`, the first kernel includes its matmul. Tensors per row are [rows, 2, width],
tensors per word [total, 2, width] in packed order, contiguous, so that the first rows or words are a contiguous slice.
"""

from functools import cache, cached_property
from typing import NamedTuple

import torch
from torch import Tensor

# Multiprocessors of a large GPU, and side length of the output tile that a thread block of a matmul computes.
MULTIPROCESSORS = 132
TILE = 128
# Minimum inner dimension of the parts of a split-K matmul.
SHORTEST_PART = 512
ALIGNMENT = 16  # bytes
# Bytes of a thread block of the fused kernel, with all stages of its pipelined loads.
SHARED_MEMORY = 3 * (128 + 4 * 64) * 64 * 2


class LstmConstants(NamedTuple):
    cell_clip: float | None
    projection_clip: float | None
    forget_bias: float


class BidirectionalWeights(NamedTuple):
    """Weights of one layer, each a pair, forward and backward: [4H, width], [4H], [4H, P], and [P, H] or `None`."""

    input_weights: tuple[Tensor, Tensor]
    input_biases: tuple[Tensor, Tensor]
    hidden_weights: tuple[Tensor, Tensor]
    output_weights: tuple[Tensor, Tensor] | None

    def flat(self) -> list[Tensor | None]:
        """All eight tensors, in pairs."""
        return [*self.input_weights, *self.input_biases, *self.hidden_weights, *(self.output_weights or (None, None))]


class Words(NamedTuple):
    """Tensors per word that the steps read and write, in the order of the kernels' table of addresses.

    Attributes:
        offsets: [steps + 1], int64: index of the first word of each step, then the total number of words.
        gates: [total, 2, 4H], the input terms of the gates; a forward pass that saves overwrites them with the sums.
        outputs: [total, 2, P].
        raw_cells: [total, 2, H], float32: before clipping. This and the next two only if the forward pass saves.
        raw_outputs: [total, 2, P]: before clipping, if they are clipped.
        hidden_before: [total, 2, P]: hidden state before each word; of a row's first word, set by the caller.
        output_gradient: [total, 2, P]. This and the following in the backward pass only.
        gate_gradient: [total, 2, 4H], before activation.
        raw_output_gradient: [total, 2, P].
        exposed: [total, 2, H]: output gate * tanh(cell), the input of the projection.
    """

    offsets: Tensor
    gates: Tensor
    outputs: Tensor | None = None
    raw_cells: Tensor | None = None
    raw_outputs: Tensor | None = None
    hidden_before: Tensor | None = None
    output_gradient: Tensor | None = None
    gate_gradient: Tensor | None = None
    raw_output_gradient: Tensor | None = None
    exposed: Tensor | None = None


class Shape(NamedTuple):
    """Properties that determine the buffers of a layer and the graphs over them."""

    rows: int
    hidden_size: int  # P
    cell_size: int  # H
    projects: bool
    dtype: torch.dtype  # of the matmuls
    constants: LstmConstants
    fuses: bool  # true if the gates' matmul and the cell are one kernel


@cache
def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """True in half precision, on a GPU with enough shared memory per thread block.

    In float32, tensor cores would round (TF32), and without them fusion gains nothing.
    """
    if device.type != "cuda" or dtype.itemsize != 2:
        return False
    # Some builds of torch lack this attribute.
    room = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    return bool(room >= SHARED_MEMORY)


def splits_of(rows: int, inner: int, width: int) -> int:
    """Number of split-K parts for a matmul of both directions, [rows, inner] by [inner, width].

    A matmul with few outputs has few thread blocks and leaves most of a GPU idle. Splitting the inner dimension gives
    more blocks; the kernel that reads the outputs sums the parts.
    """
    blocks, parts = 2 * -(-rows // TILE) * -(-width // TILE), 1
    while 2 * parts * blocks <= MULTIPROCESSORS and inner % (2 * parts) == 0 and inner // (2 * parts) >= SHORTEST_PART:
        parts *= 2
    return parts


@cache
def rounded(clip: float | None, dtype: torch.dtype) -> float:
    """A bound rounded to `dtype`, as in `torch.clamp` of tensors of this dtype; 0 for none."""
    return 0.0 if clip is None else float(torch.tensor(clip, dtype=dtype, device="cpu"))


class Workspace:
    """Static buffers for at most `shape.rows` rows, and the steps over them.

    Attributes:
        hidden: [rows, 2, P]; cell: [rows, 2, H], float32: the state. In the backward pass, `cell` is the initial one.
        hidden_gradient, cell_gradient: gradients of a row's final state; each backward step updates `cell_gradient` to
            that of the state before the step.
        lengths: [rows], int32: number of steps of each row.
        clock: [1], int64: the step at which `run` begins; `run` advances it.
    """

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.shape = shape
        rows, width, size, projects, dtype, *_ = shape
        self.output_splits = splits_of(rows, size, width) if projects else 1
        self.gate_splits = splits_of(rows, 4 * size, width)

        def of_rows(*sizes: int, kind: torch.dtype = dtype) -> Tensor:
            return torch.empty(rows, 2, *sizes, dtype=kind, device=device)

        self.hidden, self.cell = of_rows(width), of_rows(size, kind=torch.float32)
        # Of one step: recurrent terms of the gates, and input of the projection; in the backward pass, their gradients.
        self.gates, self.exposed = of_rows(4 * size), of_rows(size)
        self.output_parts = of_rows(self.output_splits, width) if projects else self.exposed
        self.lengths = torch.zeros(rows, dtype=torch.int32, device=device)
        self.clock = torch.zeros(1, dtype=torch.int64, device=device)
        self.bias = torch.empty(2, 4 * size, dtype=dtype, device=device)
        self.hidden_weight = torch.empty(2, 4 * size, width, dtype=dtype, device=device)
        self.output_weight = torch.empty(width, 2, size, dtype=dtype, device=device) if projects else None
        self._addresses = torch.empty(len(Words._fields), dtype=torch.int64, device=device)
        self.point_to_nothing()

    @cached_property
    def _gradients(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows, width, size = self.shape[:3]
        new = self.hidden.new_empty
        state = new(rows, 2, width), self.cell.new_empty(rows, 2, size)
        return *state, new(rows, 2, width), new(rows, 2, self.gate_splits, width)

    @property
    def hidden_gradient(self) -> Tensor:
        return self._gradients[0]

    @property
    def cell_gradient(self) -> Tensor:
        return self._gradients[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        values = [*vars(self).values(), *self.__dict__.get("_gradients", ())]
        return sum(each.nbytes for each in values if isinstance(each, Tensor))

    def load_weights(self, weights: BidirectionalWeights) -> None:
        """Copy the weights into the buffers. Done in every call, so that they can neither be stale nor mixed up."""
        for direction in range(2):
            self.bias[direction].copy_(weights.input_biases[direction])
            self.hidden_weight[direction].copy_(weights.hidden_weights[direction])
            if self.output_weight is not None and weights.output_weights is not None:
                self.output_weight[:, direction].copy_(weights.output_weights[direction])

    def point_to(self, words: Words) -> None:
        """Set the tensors per word that the steps read and write; they must live until the steps have run."""
        from .step_kernels import write_addresses

        given = [self._addresses if tensor is None else tensor for tensor in words]
        _check_plain(*given)
        write_addresses[(1,)](self._addresses, *given)

    def point_to_nothing(self) -> None:
        """Point to valid dummy tensors, for steps without active rows, which read the first offset only."""
        self.point_to(Words(self.clock, self.gates))

    def run(self, kind: str, rows: int, count: int) -> None:
        """Run steps from `clock` on over the first `rows` rows, and advance the clock.

        Args:
            kind: `"infer"`; `"train"`, which saves values for the backward pass; or `"backward"`, in reverse order.
            rows: number of rows, including all active ones.
            count: number of steps.
        """
        for position in range(count):
            if kind == "backward":
                self._step_back(rows, position)
            else:
                self._step(rows, position, saves=kind == "train")
        self.clock.add_(-count if kind == "backward" else count)

    def _step(self, rows: int, position: int, saves: bool) -> None:
        hidden, gates, exposed = self.hidden[:rows], self.gates[:rows], self.exposed[:rows]
        if self.shape.fuses:
            fused_cell_forward(self, rows, position, saves)
        else:
            torch.bmm(hidden.transpose(0, 1), self.hidden_weight.transpose(1, 2), out=gates.transpose(0, 1))
            cell_forward(self, rows, position, saves)
        if self.output_weight is not None:
            # [2 * splits, rows, part of H] by [2 * splits, part of H, P]
            parts, (width, _, size) = self.output_splits, self.output_weight.shape
            factor = exposed.view(rows, 2 * parts, size // parts).transpose(0, 1)
            weight = self.output_weight.view(width, 2 * parts, size // parts).permute(1, 2, 0)
            torch.bmm(factor, weight, out=self.output_parts[:rows].view(rows, 2 * parts, width).transpose(0, 1))
        output_forward(self, rows, position, saves)

    def _step_back(self, rows: int, position: int) -> None:
        _, _, raw_gradient, hidden_parts = (each[:rows] for each in self._gradients)
        output_backward(self, rows, position, raw_gradient, hidden_parts)
        exposed_gradient, gates = raw_gradient, self.gates[:rows]
        if self.output_weight is not None:
            exposed_gradient = self.exposed[:rows]
            weight = self.output_weight.transpose(0, 1)  # [2, P, H]
            torch.bmm(raw_gradient.transpose(0, 1), weight, out=exposed_gradient.transpose(0, 1))
        cell_backward(self, rows, position, exposed_gradient)
        # [2 * splits, rows, part of 4H] by [2 * splits, part of 4H, P]
        parts, (_, size, width) = self.gate_splits, self.hidden_weight.shape
        factor = gates.view(rows, 2 * parts, size // parts).transpose(0, 1)
        weight = self.hidden_weight.view(2 * parts, size // parts, width)
        torch.bmm(factor, weight, out=hidden_parts.view(rows, 2 * parts, width).transpose(0, 1))

    def initial_hidden_gradient(self, rows: int) -> Tensor:
        """Gradient of the initial hidden state, [rows, 2, P]; for rows without words, that of the final state."""
        hidden_gradient, _, _, hidden_parts = (each[:rows] for each in self._gradients)
        total = hidden_parts.sum(dim=2, dtype=torch.float32).to(hidden_gradient.dtype)
        return torch.where(self.lengths[:rows, None, None] > 0, total, hidden_gradient)


# ------------------------------------------------------------------------------------------------ launchers


def _grid(rows: int, width: int) -> tuple[tuple[int, int, int], int]:
    """Grid of programs over rows, blocks and directions, and the block size."""
    block = min(1024, 1 << max(width - 1, 0).bit_length())
    return (rows, -(-width // block), 2), block


def plain(tensor: Tensor) -> Tensor:
    """A contiguous copy or view aligned to 16 bytes, as the kernels assume."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


def _check_plain(*tensors: Tensor) -> None:
    """Raise a `ValueError` unless tensors are contiguous and aligned, as the kernels assume."""
    for tensor in tensors:
        if not tensor.is_contiguous() or tensor.data_ptr() % ALIGNMENT:
            raise ValueError(
                f"a tensor of strides {tensor.stride()} at address {tensor.data_ptr():#x} was given to a kernel: "
                f"expected a contiguous one, aligned to {ALIGNMENT} bytes"
            )


def cell_forward(space: Workspace, rows: int, position: int, saves: bool) -> None:
    """Launch the kernel from gates to cell and `exposed`."""
    from .step_kernels import cell_forward as kernel

    size, constants = space.shape.cell_size, space.shape.constants
    grid, block = _grid(rows, size)
    kernel[grid](
        space._addresses, space.clock, position, space.lengths,
        space.gates, space.bias, space.cell, space.exposed,
        size, rounded(constants.cell_clip, torch.float32), constants.forget_bias,
        CLIPS=constants.cell_clip is not None, SAVES=saves, BLOCK=block,
    )  # fmt: skip


def fused_cell_forward(space: Workspace, rows: int, position: int, saves: bool) -> None:
    """Launch the fused kernel from hidden state to cell and `exposed`."""
    from .step_kernels import fused_cell_forward as kernel

    _, width, size, *_ = space.shape
    constants = space.shape.constants
    # Tiles of 64 x 128 gates give few rows many blocks; tiles of 128 x 256 reload operands less often.
    block, columns, warps, stages = (64, 32, 4, 4) if rows <= 64 else (128, 64, 8, 3)
    kernel[-(-rows // block), -(-size // columns), 2](
        space._addresses, space.clock, position, space.lengths,
        space.hidden, space.hidden_weight, space.bias, space.cell, space.exposed,
        rows, size, rounded(constants.cell_clip, torch.float32), constants.forget_bias,
        WIDTH=width, CLIPS=constants.cell_clip is not None, SAVES=saves, ROWS=block, COLUMNS=columns,
        INNER=64, num_warps=warps, num_stages=stages,
    )  # fmt: skip


def output_forward(space: Workspace, rows: int, position: int, saves: bool) -> None:
    """Launch the kernel from raw outputs to outputs and hidden state."""
    from .step_kernels import output_forward as kernel

    width, clip = space.shape.hidden_size, space.shape.constants.projection_clip
    grid, block = _grid(rows, width)
    kernel[grid](
        space._addresses, space.clock, position, space.lengths,
        space.output_parts, space.hidden,
        width, rounded(clip, space.shape.dtype),
        SPLITS=space.output_splits, CLIPS=clip is not None, SAVES=saves, BLOCK=block,
    )  # fmt: skip


def output_backward(space: Workspace, rows: int, position: int, raw_gradient: Tensor, hidden_parts: Tensor) -> None:
    """Launch the kernel from the gradients of output and hidden state to that of the raw output."""
    from .step_kernels import output_backward as kernel

    width, clip = space.shape.hidden_size, space.shape.constants.projection_clip
    grid, block = _grid(rows, width)
    kernel[grid](
        space._addresses, space.clock, position, space.lengths,
        hidden_parts, space.hidden_gradient, raw_gradient,
        width, rounded(clip, space.shape.dtype),
        SPLITS=space.gate_splits, CLIPS=clip is not None, BLOCK=block,
    )  # fmt: skip


def cell_backward(space: Workspace, rows: int, position: int, exposed_gradient: Tensor) -> None:
    """Launch the kernel from the gradient of `exposed` to those of the gates and of the previous cell."""
    from .step_kernels import cell_backward as kernel

    size, constants = space.shape.cell_size, space.shape.constants
    grid, block = _grid(rows, size)
    kernel[grid](
        space._addresses, space.clock, position, space.lengths,
        exposed_gradient, space.cell, space.cell_gradient, space.gates,
        size, rounded(constants.cell_clip, torch.float32), constants.forget_bias,
        CLIPS=constants.cell_clip is not None, BLOCK=block,
    )  # fmt: skip
