"""Forward and backward pass of a layer over packed sequences, without autograd."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .graphs import captures, owners
from .workspace import BidirectionalWeights, LstmConstants, Shape, Words, Workspace, plain

LARGEST_GRAPH = 16  # steps
# In inference, number of words per input matmul: enough to occupy a GPU, few enough for the gates to stay in its cache.
WORDS_AT_ONCE = 1024


class Layout(NamedTuple):
    """Positions of packed words.

    Attributes:
        sizes: number of rows at each step, on the host.
        offsets: [steps + 1], int64: index of the first word of each step, then the total number of words.
        lengths: [rows], int32: number of words of each row.
        padded: true if padding is packed too, after the words of its row.
    """

    sizes: Sequence[int]
    offsets: Tensor
    lengths: Tensor
    padded: bool

    @classmethod
    def of(cls, sizes: Sequence[int], device: torch.device, lengths: Tensor | None = None) -> "Layout":
        """Layout of a packed batch, or, with `lengths` [rows], of one packed with its padding; no synchronization."""
        rows, steps = sizes[0], len(sizes)
        if sizes[-1] == rows:
            of_rows = torch.full((rows,), steps, device=device) if lengths is None else lengths
            offsets = torch.arange(0, (steps + 1) * rows, rows, device=device)
            return cls(sizes, offsets, of_rows.to(torch.int32), lengths is not None)
        running = torch.tensor(sizes, device="cpu")
        of_rows = (running[:, None] > torch.arange(rows, device="cpu")).sum(dim=0)
        on_host = torch.cat([torch.zeros(1, dtype=torch.int64, device="cpu"), running.cumsum(0), of_rows])
        if device.type == "cuda":
            on_host = on_host.pin_memory()
        on_device = on_host.to(device, non_blocking=True)
        return cls(sizes, on_device[: steps + 1], on_device[steps + 1 :].to(torch.int32), False)


class Results(NamedTuple):
    """Results of a layer: outputs [total, 2, P], final hidden (2, rows, P), final cell (2, rows, H)."""

    outputs: Tensor
    hidden: Tensor
    cell: Tensor


class Trace(NamedTuple):
    """Tensors that the forward pass saves for the backward pass."""

    cell: Tensor  # (2, rows, H), initial cell
    gates: Tensor  # [total, 2, 4H]: gates before activation
    raw_cells: Tensor  # [total, 2, H], float32: before clipping
    raw_outputs: Tensor | None  # [total, 2, P]: before clipping, if they are clipped
    hidden_before: Tensor  # [total, 2, P]: hidden state before each step


class Gradients(NamedTuple):
    """Gradients of gates before activation [total, 2, 4H], raw outputs [total, 2, P], initial hidden and cell."""

    gates: Tensor
    raw_outputs: Tensor
    hidden: Tensor
    cell: Tensor
    exposed: Tensor  # no gradient, but the input of the projection, [total, 2, H]


class Chunk(NamedTuple):
    """Consecutive steps that run as one graph, from `start` on, over the first `rows` rows."""

    start: int
    steps: int
    rows: int


def chunks_of(sizes: Sequence[int], most_words: int | None = None) -> list[Chunk]:
    """Split steps into chunks of powers of two, at most `LARGEST_GRAPH`, so that few graphs cover all lengths.

    A chunk has the rows of its first step, and at most `most_words` words unless it is a single step.
    """
    chunks: list[Chunk] = []
    start = 0
    while start < len(sizes):
        most = min(LARGEST_GRAPH, len(sizes) - start)
        if most_words is not None:
            most = min(most, max(1, most_words // sizes[start]))
        chunks.append(Chunk(start, 1 << (most.bit_length() - 1), sizes[start]))
        start += chunks[-1].steps
    return chunks


@contextlib.contextmanager
def without_autocast(device: torch.device) -> Iterator[None]:
    """Context manager without autocast and gradients, with `device` as the current GPU, on which Triton launches."""
    current = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with torch.autocast(device.type, enabled=False), current, torch.no_grad():
        yield


@contextlib.contextmanager
def workspace_for(shape: Shape, like: Tensor, kind: str, chunks: Sequence[Chunk], graphs: bool) -> Iterator[Workspace]:
    """Workspace for `shape.rows` rows that can run these chunks: by graphs, or newly allocated for this call."""
    with contextlib.ExitStack() as stack:
        space: Workspace | None = None
        if graphs:
            try:
                owned = stack.enter_context(owners.workspace(shape, like))
                for chunk in chunks:
                    owned.prepare(kind, chunk.rows, chunk.steps)
                space = owned
            except Exception as error:
                # If memory was short, only this call runs without graphs.
                if not isinstance(error, torch.OutOfMemoryError):
                    captures.end(error)
                stack.close()
                owners.clear()
        yield Workspace(shape, like.device) if space is None else space


def run_forward(
    inputs: tuple[Tensor, Tensor],
    layout: Layout,
    hidden: Tensor,
    cell: Tensor,
    weights: BidirectionalWeights,
    constants: LstmConstants,
    *,
    saves: bool,
    graphs: bool,
    fuses: bool,
) -> tuple[Results, Trace | None]:
    """Run the forward pass over inputs [total, width] of each direction; with `saves`, also return the trace."""
    shape, total = _shape(layout, hidden, cell, weights, constants, fuses), len(inputs[0])
    width, size, dtype = shape.hidden_size, shape.cell_size, shape.dtype
    rows = shape.rows
    chunks = chunks_of(layout.sizes, None if saves else WORDS_AT_ONCE)
    starts = _starts(layout.sizes)
    # Zeros for padding, which no kernel writes.
    outputs = hidden.new_zeros(total, 2, width) if layout.padded else hidden.new_empty(total, 2, width)
    most = total if saves else max(starts[chunk.start + chunk.steps] - starts[chunk.start] for chunk in chunks)
    gates = hidden.new_empty(most, 2, 4 * size)
    words, trace = Words(layout.offsets, gates, outputs), None
    if saves:
        clips = constants.projection_clip is not None
        trace = Trace(
            cell,
            gates,
            cell.new_empty(total, 2, size),
            hidden.new_empty(total, 2, width) if clips else None,
            hidden.new_empty(total, 2, width),
        )
        trace.hidden_before[:rows].copy_(hidden[:, :rows].transpose(0, 1))
        words = words._replace(
            raw_cells=trace.raw_cells, raw_outputs=trace.raw_outputs, hidden_before=trace.hidden_before
        )
    input_weights = [weight.to(dtype).T for weight in weights.input_weights]
    kind = "train" if saves else "infer"
    with workspace_for(shape, hidden, kind, chunks, graphs) as space:
        space.load_weights(weights)
        space.point_to(words)
        space.clock.zero_()
        space.lengths.zero_()
        space.lengths[:rows].copy_(layout.lengths)
        space.hidden[:rows].copy_(hidden[:, :rows].transpose(0, 1))
        space.cell[:rows].copy_(cell[:, :rows].transpose(0, 1))
        if saves:
            for direction in range(2):
                torch.mm(inputs[direction], input_weights[direction], out=gates[:, direction])
        for start, steps, running in chunks:
            if not saves:
                part = slice(starts[start], starts[start + steps])
                for direction in range(2):
                    terms = gates[: part.stop - part.start, direction]
                    torch.mm(inputs[direction][part], input_weights[direction], out=terms)
            space.run(kind, running, steps)
        # Rows without words keep their state.
        final_hidden, final_cell = (part.clone(memory_format=torch.contiguous_format) for part in (hidden, cell))
        final_hidden[:, :rows].copy_(space.hidden[:rows].transpose(0, 1))
        final_cell[:, :rows].copy_(space.cell[:rows].transpose(0, 1))
    return Results(outputs, final_hidden, final_cell), trace


def run_backward(
    upstream: Results,
    layout: Layout,
    trace: Trace,
    weights: BidirectionalWeights,
    constants: LstmConstants,
    *,
    graphs: bool,
    fuses: bool,
) -> Gradients:
    """Run the backward pass; `upstream` are the gradients of the results."""
    # Saved-tensor hooks may have changed the memory layout.
    trace = Trace(
        cell=plain(trace.cell),
        gates=plain(trace.gates),
        raw_cells=plain(trace.raw_cells),
        raw_outputs=None if trace.raw_outputs is None else plain(trace.raw_outputs),
        hidden_before=plain(trace.hidden_before),
    )
    shape = _shape(layout, upstream.hidden, trace.cell, weights, constants, fuses)
    rows = shape.rows
    d_gates, d_raw = torch.empty_like(trace.gates), torch.empty_like(upstream.outputs)
    exposed = d_gates.new_empty(trace.raw_cells.shape)
    words = Words(
        layout.offsets, trace.gates, None, trace.raw_cells, trace.raw_outputs, None,
        upstream.outputs, d_gates, d_raw, exposed,
    )  # fmt: skip
    chunks = chunks_of(layout.sizes)
    with workspace_for(shape, d_gates, "backward", chunks, graphs) as space:
        space.load_weights(weights)
        space.point_to(words)
        space.clock.fill_(len(layout.sizes) - 1)
        space.lengths.zero_()
        space.lengths[:rows].copy_(layout.lengths)
        space.cell[:rows].copy_(trace.cell[:, :rows].transpose(0, 1))
        space.hidden_gradient[:rows].copy_(upstream.hidden[:, :rows].transpose(0, 1))
        space.cell_gradient[:rows].copy_(upstream.cell[:, :rows].transpose(0, 1))
        for _, steps, running in reversed(chunks):
            space.run("backward", running, steps)
        # Rows without words pass the gradient of their final state on.
        d_hidden, d_cell = (
            part.clone(memory_format=torch.contiguous_format) for part in (upstream.hidden, upstream.cell)
        )
        d_hidden[:, :rows].copy_(space.initial_hidden_gradient(rows).transpose(0, 1))
        d_cell[:, :rows].copy_(space.cell_gradient[:rows].transpose(0, 1))
    return Gradients(d_gates, d_raw, d_hidden, d_cell, exposed)


def _shape(
    layout: Layout, hidden: Tensor, cell: Tensor, weights: BidirectionalWeights, constants: LstmConstants, fuses: bool
) -> Shape:
    projects = weights.output_weights is not None
    return Shape(layout.sizes[0], hidden.shape[2], cell.shape[2], projects, hidden.dtype, constants, fuses)


def _starts(sizes: Sequence[int]) -> list[int]:
    """Index of the first word of each step, then the total number of words, on the host."""
    return [0, *itertools.accumulate(sizes)]
