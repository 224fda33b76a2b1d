"""The recurrence of `operators.bidirectional_lstm` on a GPU: both directions of a layer in one batched product a step.

`packed_lstm` runs a shrinking batch and is differentiable: a hand-written backward pass over saved gates, unclipped
cells and unclipped outputs, with the gradient of each weight matrix as one product over all steps. `replayed_lstm` is
for inference: it replays CUDA graphs of up to 16 steps on static buffers, in which rows that have ended are masked, so
that batches of all lengths share a few graphs and nothing waits for the GPU. Gates and products are in the dtype of the
inputs, everything point-wise and the cell in float32. Training graphs both passes too where shapes recur, as in
pretraining.

What is between two products is one Triton kernel (`step_kernels`), imported when it first runs. Everything here
runs on processor tensors too under Triton's interpreter, the graphs aside.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The input terms of this many words at once: enough to fill a GPU and few enough to stay in its cache.
WORDS_AT_ONCE = 1024
LARGEST_GRAPH = 16  # steps
# A step over more rows takes a GPU longer than it takes to launch.
LARGEST_REPLAYED_BATCH = 512
BUFFERS_KEPT = 8
SHAPES_TRAINED = 2
# Training graphs: only for shapes that recur, and no more than this many calls between forward and backward pass.
MEETINGS_BEFORE_CAPTURE = 4
MOST_TRAINING_GRAPHS = 8


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

    @classmethod
    def of(cls, first: Any, second: Any) -> "BidirectionalWeights":
        """Of the tensors of two directions."""
        return cls(
            (first.input_weight, second.input_weight),
            (first.input_bias, second.input_bias),
            (first.hidden_weight, second.hidden_weight),
            None if first.output_weight is None else (first.output_weight, second.output_weight),
        )

    def flat(self) -> list[Tensor | None]:
        """All eight, pair by pair."""
        return [*self.input_weights, *self.input_biases, *self.hidden_weights, *(self.output_weights or (None, None))]


@cache
def has_kernels(device: torch.device) -> bool:
    """Whether this is a GPU, and Triton is installed and compiles for it."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    return torch.version.cuda is None or torch.cuda.get_device_capability(device) >= (7, 0)


def compute_dtype(inputs: Tensor) -> torch.dtype:
    """That of the products: what autocast says, else that of the inputs."""
    kind = inputs.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype


def _declines(inputs: Sequence[Tensor], cell: Tensor, pair: Sequence[Any]) -> str | None:
    """Why a call is not served; `None` if it is."""
    if not has_kernels(inputs[0].device):
        return "not on a GPU with Triton"
    device, dtype = inputs[0].device, compute_dtype(inputs[0])
    if dtype not in DTYPES or cell.dtype != torch.float32:
        return f"dtypes {dtype}, {cell.dtype}"
    weights = [weight for each in pair for weight in each if weight is not None]
    if any(each.input_bias is None for each in pair):
        return "no bias"
    # A sharded weight is a subclass of a tensor. Autocast casts weights, whatever their dtype.
    dtypes = DTYPES if torch.is_autocast_enabled(device.type) else (dtype,)
    if any(tensor.device != device for tensor in (*inputs, cell)) or not all(
        type(weight) in (nn.Parameter, Tensor) and weight.dtype in dtypes and weight.device == device
        for weight in weights
    ):
        return "weights of several dtypes, devices or kinds"
    return None


def serves_padded(words: Tensor, cell: Tensor, layers: Sequence[tuple[Any, Any]]) -> bool:
    """True if `bidirectional_lstm` would take all layers of a padded batch.

    Args:
        words: (batch, words, width); cell: (layers, 2, rows, H), of at least so many rows.
        layers: the weights of both directions of each layer.
    """
    if torch.is_grad_enabled() or not 0 < words.shape[0] <= LARGEST_REPLAYED_BATCH or not words.shape[1]:
        return False
    return all(_declines((words, words), cell, pair) is None for pair in layers)


def bidirectional_lstm(
    inputs: tuple[Tensor, Tensor],
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    forward: Any,
    backward: Any,
    *,
    cell_clip: float | None,
    projection_clip: float | None,
    forget_bias: float,
    indices: tuple[Tensor, Tensor] | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor] | str:
    """`operators.bidirectional_lstm` over the weights of both directions, or why it does not serve."""
    reason = _declines(inputs, cell, (forward, backward))
    if reason:
        return reason
    if indices is not None:
        inputs = inputs[0].index_select(0, indices[0]), inputs[1].index_select(0, indices[1])
    weights = BidirectionalWeights.of(forward, backward)
    constants = LstmConstants(cell_clip, projection_clip, forget_bias)
    dtype = compute_dtype(inputs[0])
    inputs, hidden = (inputs[0].to(dtype), inputs[1].to(dtype)), hidden.to(dtype)
    learns = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (*inputs, hidden, cell, *weights.flat()) if tensor is not None
    )
    # Padding costs little while a step mostly reads weights.
    padding = batch_sizes[0] * len(batch_sizes) / len(inputs[0])
    replays = batch_sizes[0] <= (128 if padding > 1.5 else LARGEST_REPLAYED_BATCH) and _captures(inputs[0].device)
    if lengths is not None:
        return replayed_lstm(inputs, batch_sizes, hidden, cell, weights, constants, graphs=replays, lengths=lengths)
    if learns or not replays:
        return packed_lstm(inputs, batch_sizes, hidden, cell, weights, constants)
    return replayed_lstm(inputs, batch_sizes, hidden, cell, weights, constants)


# ------------------------------------------------------------------------------------------------ kernels


def _grid(like: Tensor, width: int) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Programs over the rows of both directions, and the block of each."""
    block = min(1024, 1 << max(width - 1, 0).bit_length())
    return (like.shape[1], -(-width // block), 2), {"BLOCK": block}


@cache
def _rounded(clip: float | None, dtype: torch.dtype) -> float:
    """A bound as `torch.clamp` has it for tensors of this dtype."""
    return 0.0 if clip is None else float(torch.tensor(clip, dtype=dtype))


def _cell_forward(
    gates: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    cell: Tensor,
    exposed: Tensor,
    constants: LstmConstants,
    *,
    raw_cells: Tensor | None = None,
    remaining: Tensor | None = None,
    step: int = 0,
) -> None:
    from .step_kernels import cell_forward

    grid, block = _grid(exposed, exposed.shape[2])
    saved = cell if raw_cells is None else raw_cells
    cell_forward[grid](
        gates, gates.stride(0),
        recurrent, recurrent.stride(0),
        bias,
        cell, cell.stride(0),
        saved, saved.stride(0),
        exposed, exposed.stride(0),
        cell if remaining is None else remaining, step,
        exposed.shape[2], _rounded(constants.cell_clip, cell.dtype), constants.forget_bias,
        CLIPS=constants.cell_clip is not None, SAVES=raw_cells is not None, MASKED=remaining is not None,
        **block,
    )  # fmt: skip


def _output_forward(
    raw: Tensor,
    outputs: Tensor,
    following: Tensor,
    following_rows: int,
    final: Tensor,
    projection_clip: float | None,
    *,
    remaining: Tensor | None = None,
    step: int = 0,
) -> None:
    from .step_kernels import output_forward

    grid, block = _grid(raw, raw.shape[2])
    output_forward[grid](
        raw, raw.stride(0),
        outputs, outputs.stride(0),
        following, following.stride(0), following_rows,
        final, final.stride(0),
        raw if remaining is None else remaining, step,
        raw.shape[2], _rounded(projection_clip, raw.dtype),
        CLIPS=projection_clip is not None, MASKED=remaining is not None,
        **block,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ packed


def _stacked(pair: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """[2, ...], cast on the way."""
    stack = torch.empty((2, *pair[0].shape), dtype=dtype, device=pair[0].device)
    stack[0].copy_(pair[0])
    stack[1].copy_(pair[1])
    return stack


class _Stacks(NamedTuple):
    """The weights of a layer, [2, ...], in the dtype of the products."""

    input_weight: Tensor
    input_bias: Tensor
    hidden_weight: Tensor
    output_weight: Tensor | None

    @classmethod
    def of(cls, weights: BidirectionalWeights, dtype: torch.dtype) -> "_Stacks":
        pairs = (weights.input_weights, weights.input_biases, weights.hidden_weights, weights.output_weights)
        return cls(*(cast("Tensor", pair if pair is None else _stacked(pair, dtype)) for pair in pairs))


class _Results(NamedTuple):
    """Of a layer: [2, total, P]; (2, rows, P); (2, rows, H)."""

    outputs: Tensor
    hidden: Tensor
    cell: Tensor


class _Trace(NamedTuple):
    """What the backward pass reads of the forward pass, [2, total, ...] in the order of the words."""

    inputs: Tensor
    cell: Tensor  # (2, rows, H), the initial one
    gates: Tensor  # 4H wide: their sums before activation
    raw_cells: Tensor  # H wide, float32: before clipping
    raw_outputs: Tensor  # P wide: before clipping
    hidden_before: Tensor  # P wide: what each step began with


def _stretches(batch_sizes: Sequence[int]) -> Iterator[list[int]]:
    """Steps whose input terms are computed in one product."""
    sizes: list[int] = []
    for size in batch_sizes:
        if sizes and sum(sizes) + size > WORDS_AT_ONCE:
            yield sizes
            sizes = []
        sizes.append(size)
    yield sizes


def _forward(
    inputs: Tensor,
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    weights: _Stacks,
    constants: LstmConstants,
    traces: bool,
) -> tuple[_Results, _Trace | None]:
    """Run over [2, total, width]."""
    total, size, width, most = inputs.shape[1], cell.shape[2], hidden.shape[2], batch_sizes[0]
    stretches = list(_stretches(batch_sizes))
    outputs, hidden_before = inputs.new_empty(2, total, width), inputs.new_empty(2, total, width)
    final_hidden, final_cell = hidden.clone(), cell.clone()
    hidden_before[:, :most] = hidden[:, :most]
    gates = inputs.new_empty(2, total if traces else max(map(sum, stretches)), 4 * size)
    raw_cells = cell.new_empty(2, total, size) if traces else None
    raw_outputs = inputs.new_empty(2, total, width) if weights.output_weight is not None else outputs
    recurrents, exposeds = inputs.new_empty(2 * most * 4 * size), inputs.new_empty(2 * most * size)
    end, step = 0, 0
    for sizes in stretches:
        words = slice(end, end + sum(sizes))
        terms = gates[:, words] if traces else gates[:, : sum(sizes)]
        torch.bmm(inputs[:, words], weights.input_weight.transpose(1, 2), out=terms)
        done = 0
        for running in sizes:
            part, within = slice(end, end + running), slice(done, done + running)
            end, done, step = end + running, done + running, step + 1
            recurrent = recurrents[: 2 * running * 4 * size].view(2, running, 4 * size)
            raw = exposed = exposeds[: 2 * running * size].view(2, running, size)
            torch.bmm(hidden_before[:, part], weights.hidden_weight.transpose(1, 2), out=recurrent)
            _cell_forward(
                terms[:, within], recurrent, weights.input_bias, final_cell, exposed, constants,
                raw_cells=None if raw_cells is None else raw_cells[:, part],
            )  # fmt: skip
            if weights.output_weight is not None:
                raw = torch.bmm(exposed, weights.output_weight.transpose(1, 2), out=raw_outputs[:, part])
            running_on = batch_sizes[step] if step < len(batch_sizes) else 0
            following = hidden_before[:, end : end + running_on] if running_on else final_hidden
            _output_forward(raw, outputs[:, part], following, running_on, final_hidden, constants.projection_clip)
    trace = None if raw_cells is None else _Trace(inputs, cell, gates, raw_cells, raw_outputs, hidden_before)
    return _Results(outputs, final_hidden, final_cell), trace


class _Gradients(NamedTuple):
    """[2, total, ...] of every step's sums of gates (4H), raw output (P); of the initial hidden and cell."""

    gates: Tensor
    raw_outputs: Tensor
    hidden: Tensor
    cell: Tensor
    exposed: Tensor  # no gradient: the output weights' factor, [2, total, H]


def _backward(
    upstream: _Results, batch_sizes: Sequence[int], trace: _Trace, weights: _Stacks, constants: LstmConstants
) -> _Gradients:
    """Run back over the steps; `upstream` are the gradients of the results."""
    from .step_kernels import cell_backward, output_backward

    size, width = trace.cell.shape[2], upstream.hidden.shape[2]
    d_gates, d_raw = torch.empty_like(trace.gates), torch.empty_like(upstream.outputs)
    exposeds = trace.gates.new_empty(trace.raw_cells.shape)
    # Of the state after the step at hand: what later steps, or the caller, ask of it.
    d_hidden, d_cell = upstream.hidden.clone(), upstream.cell.clone()
    d_exposeds = trace.gates.new_empty(2 * batch_sizes[0] * size)
    cell_clip = _rounded(constants.cell_clip, torch.float32)
    projection_clip = _rounded(constants.projection_clip, d_raw.dtype)
    end = trace.gates.shape[1]
    for step in range(len(batch_sizes) - 1, -1, -1):
        running = batch_sizes[step]
        part = slice(end - running, end)
        end -= running
        before = trace.raw_cells[:, end - batch_sizes[step - 1] : end] if step else trace.cell
        grid, block = _grid(d_raw[:, part], width)
        output_backward[grid](
            upstream.outputs[:, part], upstream.outputs.stride(0),
            d_hidden, d_hidden.stride(0),
            trace.raw_outputs[:, part], trace.raw_outputs.stride(0),
            d_raw[:, part], d_raw.stride(0),
            width, projection_clip, CLIPS=constants.projection_clip is not None, **block,
        )  # fmt: skip
        d_exposed = d_raw[:, part]
        if weights.output_weight is not None:
            d_exposed = torch.bmm(
                d_exposed, weights.output_weight, out=d_exposeds[: 2 * running * size].view(2, running, size)
            )
        grid, block = _grid(d_exposed, size)
        cell_backward[grid](
            trace.gates[:, part], trace.gates.stride(0),
            trace.raw_cells[:, part], trace.raw_cells.stride(0),
            before, before.stride(0),
            d_exposed, d_exposed.stride(0),
            d_cell, d_cell.stride(0),
            d_gates[:, part], d_gates.stride(0),
            exposeds[:, part], exposeds.stride(0),
            size, cell_clip, constants.forget_bias,
            CLIPS=constants.cell_clip is not None, CLIPS_BEFORE=constants.cell_clip is not None and step > 0, **block,
        )  # fmt: skip
        torch.bmm(d_gates[:, part], weights.hidden_weight, out=d_hidden[:, :running])
    return _Gradients(d_gates, d_raw, d_hidden, d_cell, exposeds)


@contextlib.contextmanager
def _unaided(device: torch.device) -> Iterator[None]:
    """Every product in the dtype of its factors, not autocast's, and kernels launched on the tensors' GPU."""
    current = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with torch.autocast(device.type, enabled=False), current:
        yield


class _BidirectionalLstm(torch.autograd.Function):
    """Two inputs, hidden, cell, the eight weights pair by pair; batch sizes, constants."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        tensors, (batch_sizes, constants) = arguments[:12], arguments[12:]
        inputs, (hidden, cell) = tensors[:2], tensors[2:4]
        pairs = [tensors[place : place + 2] for place in range(4, 12, 2)]
        weights = BidirectionalWeights(pairs[0], pairs[1], pairs[2], None if pairs[3][0] is None else pairs[3])
        ctx.batch_sizes, ctx.constants = batch_sizes, constants
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in tensors]
        with _unaided(hidden.device):
            ctx.lease = _training_graphs(inputs[0], batch_sizes, hidden, cell, weights, constants)
            if ctx.lease is not None:
                results = ctx.lease.graphs.forward(inputs, hidden, cell, weights)
            else:
                stacks = _Stacks.of(weights, inputs[0].dtype)
                words = _stacked(inputs, inputs[0].dtype)
                results, trace = _forward(words, batch_sizes, hidden, cell, stacks, constants, traces=True)
                ctx.save_for_backward(*cast("_Trace", trace), *stacks)
        return results.outputs[0], results.outputs[1], results.hidden, results.cell

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        with _unaided(upstream[0].device):
            results = _Results(_stacked(upstream[:2], upstream[0].dtype), *upstream[2:])
            if ctx.lease is not None:
                trace, weights, gradients = ctx.lease.graphs.backward(results)
            else:
                saved = ctx.saved_tensors
                trace, weights = _Trace(*saved[:6]), _Stacks(*saved[6:])
                gradients = _backward(results, ctx.batch_sizes, trace, weights, ctx.constants)
            found = _products(ctx.needs_input_grad, trace, weights, gradients)
            if ctx.lease is not None and not torch._C._autograd._get_current_graph_task_keep_graph():
                ctx.lease.release()
        cast_back = (
            None if gradient is None else gradient.to(dtype) for gradient, dtype in zip(found, ctx.dtypes, strict=True)
        )
        return *cast_back, None, None


def _products(needed: Sequence[bool], trace: _Trace, weights: _Stacks, gradients: _Gradients) -> list[Tensor | None]:
    """The gradients of the first twelve arguments: those of the weights as one product each over all steps."""

    def pair(place: int, compute: Callable[[], Tensor]) -> list[Tensor | None]:
        if not any(needed[place : place + 2]):
            return [None, None]
        return list(compute())

    transposed = gradients.gates.transpose(1, 2)
    return [
        *pair(0, lambda: torch.bmm(gradients.gates, weights.input_weight)),
        gradients.hidden.clone() if needed[2] else None,
        gradients.cell.clone() if needed[3] else None,
        *pair(4, lambda: torch.bmm(transposed, trace.inputs)),
        *pair(6, lambda: gradients.gates.sum(dim=1)),
        *pair(8, lambda: torch.bmm(transposed, trace.hidden_before)),
        *pair(10, lambda: torch.bmm(gradients.raw_outputs.transpose(1, 2), gradients.exposed)),
    ]


def packed_lstm(
    inputs: tuple[Tensor, Tensor],
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    weights: BidirectionalWeights,
    constants: LstmConstants,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both directions over packed sequences; differentiable once.

    Args:
        inputs: [total, width], forward and backward, in the dtype of the products.
        batch_sizes: rows running at each step, never growing, at least one; their sum is `total`.
        hidden: (2, rows, P), in the dtype of the products; cell: (2, rows, H), float32.
        weights: of any dtype; they are cast to that of the inputs, and their gradients back.

    Returns:
        As `bidirectional_lstm`.
    """
    if weights.output_weights is None:
        constants = constants._replace(projection_clip=None)
    tensors = (*inputs, hidden, cell, *weights.flat())
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return cast("Any", _BidirectionalLstm.apply(*tensors, tuple(batch_sizes), constants))
    with torch.no_grad(), _unaided(hidden.device):
        dtype = inputs[0].dtype
        stacks = _Stacks.of(weights, dtype)
        results, _ = _forward(_stacked(inputs, dtype), batch_sizes, hidden, cell, stacks, constants, traces=False)
    return results.outputs[0], results.outputs[1], results.hidden, results.cell


# ------------------------------------------------------------------------------------------------ graphs


class _Pool:
    """A bounded number of things that hold static buffers, the least recently used one dropped first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.lock = threading.RLock()
        self._kept: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        with self.lock:
            if key not in self._kept:
                # Static buffers outlive the mode that they happen to be made in.
                with torch.inference_mode(False), torch.no_grad():
                    self._kept[key] = make()
                while len(self._kept) > self.most:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def clear(self) -> None:
        with self.lock:
            self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)


_replays = _Pool(BUFFERS_KEPT)
_trainings = _Pool(SHAPES_TRAINED)


def release_buffers() -> None:
    """Give the memory of all graphs and their buffers back."""
    _replays.clear()
    _trainings.clear()


def _place(tensor: Tensor) -> tuple[torch.device, int]:
    """Device and stream: work on one stream is ordered, so it may share buffers."""
    stream = torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else 0
    return tensor.device, stream


@cache
def _capture_stream(device: torch.device, stream: int) -> torch.cuda.Stream:
    """Where graphs are captured that will run on `stream`: they share cuBLAS' workspace with no other stream's."""
    return torch.cuda.Stream(device)


def _captured(like: Tensor, work: Callable[[], Sequence[Tensor | None]]) -> tuple[Callable[[], None], Any]:
    """What repeats `work` on the same buffers, into the same results; and these.

    On the device of `like`, which is the current one; off a GPU without a graph.
    """
    if not like.is_cuda:
        kept = work()

        def repeat() -> None:
            for old, new in zip(kept, work(), strict=True):
                if old is not None and new is not None:
                    old.copy_(new)

        return repeat, kept
    # The first run compiles kernels and makes handles, which a capture cannot do.
    side = _capture_stream(*_place(like))
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads, such as one that pins memory, go on meanwhile.
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        kept = work()
    return graph.replay, kept


class _Replay:
    """Static buffers for a layer of `rows` rows, and graphs of 1, 2, 4, ... steps on them.

    Nothing here belongs to particular weights: those of the recurrence are copied in at each run, which costs a few
    per cent and cannot go stale, and layers and models of one shape share the graphs.
    """

    def __init__(
        self, rows: int, hidden: Tensor, cell: Tensor, weights: BidirectionalWeights, constants: LstmConstants
    ) -> None:
        size, width = cell.shape[2], hidden.shape[2]
        self.lock = threading.Lock()
        self.rows, self.constants = rows, constants
        self.longest = 1 << (max(1, min(LARGEST_GRAPH, WORDS_AT_ONCE // rows)).bit_length() - 1)
        words = self.longest * rows
        # Begun with zeros: rows that are never filled must hold numbers.
        self.terms, self.outputs = hidden.new_zeros(2 * words * 4 * size), hidden.new_zeros(2 * words * width)
        self.hidden, self.cell = hidden.new_zeros(2, rows, width), cell.new_zeros(2, rows, size)
        self.recurrent, self.exposed = hidden.new_zeros(2, rows, 4 * size), hidden.new_zeros(2, rows, size)
        self.remaining = torch.zeros(rows, dtype=torch.int32, device=hidden.device)
        self.bias, self.hidden_weight = hidden.new_zeros(2, 4 * size), hidden.new_zeros(2, 4 * size, width)
        projects = weights.output_weights is not None
        self.output_weight = hidden.new_zeros(2, width, size) if projects else None
        self.raw = hidden.new_zeros(2, rows, width) if projects else self.exposed
        self.graphs: dict[int, Callable[[], None]] = {}

    def _views(self, steps: int) -> tuple[Tensor, Tensor]:
        """[2, steps * rows, 4H] and [2, steps * rows, P] of the buffers."""
        words = steps * self.rows
        four, width = self.recurrent.shape[2], self.hidden.shape[2]
        return self.terms[: 2 * words * four].view(2, words, four), self.outputs[: 2 * words * width].view(
            2, words, width
        )

    def _steps(self, steps: int) -> tuple[()]:
        terms, outputs = self._views(steps)
        for step in range(steps):
            part = slice(step * self.rows, (step + 1) * self.rows)
            torch.bmm(self.hidden, self.hidden_weight.transpose(1, 2), out=self.recurrent)
            _cell_forward(
                terms[:, part], self.recurrent, self.bias, self.cell, self.exposed, self.constants,
                remaining=self.remaining, step=step,
            )  # fmt: skip
            if self.output_weight is not None:
                torch.bmm(self.exposed, self.output_weight.transpose(1, 2), out=self.raw)
            _output_forward(
                self.raw, outputs[:, part], self.hidden, self.rows, self.hidden, self.constants.projection_clip,
                remaining=self.remaining, step=step,
            )  # fmt: skip
        self.remaining.sub_(steps)
        return ()

    def _graph(self, steps: int) -> Callable[[], None]:
        if steps not in self.graphs:
            with torch.inference_mode(False), torch.no_grad():
                self.graphs[steps], _ = _captured(self.hidden, lambda: self._steps(steps))
        return self.graphs[steps]

    def run(
        self,
        inputs: Sequence[Tensor],
        lengths: Tensor | None,
        hidden: Tensor,
        cell: Tensor,
        weights: BidirectionalWeights,
        graphs: bool,
    ) -> _Results:
        """Two inputs [steps, rows, width], rows no more than `self.rows`; lengths [rows] -> results."""
        steps, rows, _ = inputs[0].shape
        stretches = _powers(steps, self.longest)
        with self.lock:
            repeats = {count: self._graph(count) for count in set(stretches)} if graphs else {}
            self.remaining.zero_()
            if lengths is None:
                self.remaining[:rows].fill_(steps)
            else:
                self.remaining[:rows].copy_(lengths)
            self.hidden[:, :rows].copy_(hidden[:, :rows])
            self.cell[:, :rows].copy_(cell[:, :rows])
            for direction in range(2):
                self.bias[direction].copy_(weights.input_biases[direction])
                self.hidden_weight[direction].copy_(weights.hidden_weights[direction])
                if self.output_weight is not None and weights.output_weights is not None:
                    self.output_weight[direction].copy_(weights.output_weights[direction])
            input_weights = [weight.to(self.hidden.dtype).T for weight in weights.input_weights]
            if rows < self.rows:
                inputs = [nn.functional.pad(part, (0, 0, 0, self.rows - rows)) for part in inputs]
            outputs = inputs[0].new_empty(2, steps, rows, self.hidden.shape[2])
            start = 0
            for count in stretches:
                terms, part = self._views(count)
                for direction in range(2):
                    words = inputs[direction][start : start + count].flatten(0, 1)
                    torch.mm(words, input_weights[direction], out=terms[direction])
                if graphs:
                    repeats[count]()
                else:
                    self._steps(count)
                outputs[:, start : start + count] = part.view(2, count, self.rows, -1)[:, :, :rows]
                start += count
            final_hidden, final_cell = hidden.clone(), cell.clone()
            final_hidden[:, :rows], final_cell[:, :rows] = self.hidden[:, :rows], self.cell[:, :rows]
        return _Results(outputs, final_hidden, final_cell)


def _powers(steps: int, longest: int) -> list[int]:
    """Powers of two, the largest first and none above `longest`, that sum to `steps`."""
    parts = [longest] * (steps // longest)
    rest = steps % longest
    return parts + [1 << bit for bit in range(rest.bit_length() - 1, -1, -1) if rest >> bit & 1]


def _rounded_up(rows: int) -> int:
    """Rows of the buffers that so many rows use. Up to about 64 a step takes the time of reading the weights."""
    return max(8, 1 << (rows - 1).bit_length()) if rows <= 64 else -(-rows // 64) * 64


def _places(batch_sizes: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """[total] row of every packed word in steps * rows padded ones; [rows] words of each row. Waits for nothing."""
    rows, total = batch_sizes[0], sum(batch_sizes)
    on_host = torch.tensor(batch_sizes)
    if device.type == "cuda":
        on_host = on_host.pin_memory()
    sizes = on_host.to(device, non_blocking=True)
    steps = torch.arange(len(batch_sizes), device=device)
    step = steps.repeat_interleave(sizes, output_size=total)
    row = torch.arange(total, device=device) - (sizes.cumsum(0) - sizes)[step]
    return step * rows + row, (sizes[:, None] > torch.arange(rows, device=device)).sum(dim=0)


def replayed_lstm(
    inputs: tuple[Tensor, Tensor],
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    weights: BidirectionalWeights,
    constants: LstmConstants,
    *,
    graphs: bool = True,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`packed_lstm` without gradients, padded on the GPU and replayed from CUDA graphs.

    Args:
        batch_sizes: `PaddedSizes` if the inputs hold padding already: past the end of a row, outputs are zero.
        graphs: if not, every kernel is launched from here.
    """
    if weights.output_weights is None:
        constants = constants._replace(projection_clip=None)
    steps, rows, width = len(batch_sizes), batch_sizes[0], inputs[0].shape[1]
    with torch.no_grad(), _unaided(hidden.device):
        place = None
        padded = list(inputs)
        if batch_sizes[-1] < rows:
            place, lengths = _places(batch_sizes, inputs[0].device)
            padded = [part.new_zeros(steps * rows, width).index_copy(0, place, part) for part in inputs]
        room = _rounded_up(rows)
        sizes = hidden.shape[2], cell.shape[2], weights.output_weights is None
        key = (*_place(hidden), hidden.dtype, room, *sizes, constants)
        replay = _replays.get(key, lambda: _Replay(room, hidden, cell, weights, constants))
        results = replay.run([part.view(steps, rows, width) for part in padded], lengths, hidden, cell, weights, graphs)
        outputs = results.outputs.flatten(1, 2)
        if place is not None:
            outputs = outputs.index_select(1, place)
    return outputs[0], outputs[1], results.hidden, results.cell


class _TrainingGraphs:
    """The forward and the backward pass of a layer as two graphs on static buffers, for one call at a time."""

    def __init__(
        self,
        words: Tensor,
        batch_sizes: Sequence[int],
        hidden: Tensor,
        cell: Tensor,
        weights: BidirectionalWeights,
        constants: LstmConstants,
    ) -> None:
        self.words, self.hidden, self.cell = words.new_zeros(2, *words.shape), hidden.clone(), cell.clone()
        self.weights = _Stacks.of(weights, words.dtype)
        arguments = (self.words, batch_sizes, self.hidden, self.cell, self.weights, constants, True)

        def forward() -> Sequence[Tensor | None]:
            results, trace = _forward(*arguments)
            return [*results, *cast("_Trace", trace)]

        self.run_forward, kept = _captured(words, forward)
        self.results, self.trace = _Results(*kept[:3]), _Trace(*kept[3:])
        self.upstream = _Results(*(torch.zeros_like(part) for part in self.results))
        self.run_backward, kept = _captured(
            words, lambda: _backward(self.upstream, batch_sizes, self.trace, self.weights, constants)
        )
        self.gradients = _Gradients(*kept)

    def forward(
        self, inputs: Sequence[Tensor], hidden: Tensor, cell: Tensor, weights: BidirectionalWeights
    ) -> _Results:
        for stack, pair in zip(
            (self.words, *self.weights),
            (inputs, weights.input_weights, weights.input_biases, weights.hidden_weights, weights.output_weights),
            strict=True,
        ):
            if stack is not None and pair is not None:
                stack[0].copy_(pair[0])
                stack[1].copy_(pair[1])
        self.hidden.copy_(hidden)
        self.cell.copy_(cell)
        self.run_forward()
        return _Results(*(part.clone() for part in self.results))

    def backward(self, upstream: _Results) -> tuple[_Trace, _Stacks, _Gradients]:
        for mine, given in zip(self.upstream, upstream, strict=True):
            mine.copy_(given)
        self.run_backward()
        return self.trace, self.weights, self.gradients


class _Shelf:
    """The training graphs of one shape that no call has taken."""

    def __init__(self) -> None:
        self.met, self.made = 0, 0
        self.free: list[_TrainingGraphs] = []


class _Lease:
    """Training graphs between the forward pass of a call and the end of its backward pass."""

    def __init__(self, shelf: _Shelf, graphs: _TrainingGraphs) -> None:
        self._shelf, self._graphs, self._lock = shelf, cast("_TrainingGraphs | None", graphs), _trainings.lock

    @property
    def graphs(self) -> _TrainingGraphs:
        if self._graphs is None:
            raise RuntimeError(
                "the backward pass ran a second time over an LSTM whose buffers have been given to another call: "
                "pass retain_graph=True to the first one"
            )
        return self._graphs

    def release(self) -> None:
        with self._lock:
            if self._graphs is not None:
                self._shelf.free.append(self._graphs)
                self._graphs = None

    def __del__(self) -> None:
        self.release()


def _captures(device: torch.device) -> bool:
    """Whether CUDA graphs can be captured here and now."""
    return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()


def _training_graphs(
    words: Tensor,
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    weights: BidirectionalWeights,
    constants: LstmConstants,
) -> _Lease | None:
    """Graphs for a call that trains, if its shape recurs as in pretraining; `None` if it is to run without."""
    # Whoever handles saved tensors (checkpointing, offloading) must get to see them.
    handled = torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
    if batch_sizes[0] != batch_sizes[-1] or handled or not _captures(words.device):
        return None
    projects = weights.output_weights is not None
    key = (*_place(words), words.dtype, batch_sizes, words.shape[1], hidden.shape, cell.shape, projects, constants)
    shelf = _trainings.get(key, _Shelf)
    with _trainings.lock:
        shelf.met += 1
        if not shelf.free:
            if shelf.met <= MEETINGS_BEFORE_CAPTURE or shelf.made == MOST_TRAINING_GRAPHS:
                return None
            shelf.made += 1
            try:
                with torch.inference_mode(False), torch.no_grad():
                    shelf.free.append(_TrainingGraphs(words, batch_sizes, hidden, cell, weights, constants))
            except torch.OutOfMemoryError:
                # Those that there are, if any, must do; without graphs memory is only taken for a while.
                shelf.made = MOST_TRAINING_GRAPHS
                return None
        return _Lease(shelf, shelf.free.pop())
