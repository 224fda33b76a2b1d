"""The recurrence of `operators.reference_lstm` on a CPU, without gradients.

This file holds the optimizations around the recurrence itself. The input matmul covers all words at once, and repeated
words only once. Rows that have read the same words from a zero state are in the same state, so they are computed as one
until they diverge: all rows begin with `<S>`, and backwards with `</S>` and often the same full stop.

The recurrence is a [`Recurrence`]: compiled C (`native_lstm`) if available, else PyTorch's operators around matmuls
with packed (`onednn`) or quantized (`int8`) weights.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..precision import is_lowered_by_autocast
from .int8 import int8_linear
from .native_lstm import NativeRecurrence, native_declines
from .onednn import packed_linear

# Equal rows are computed once as long as at most this share of the rows is distinct.
WORTH_SHARING = 0.85


Matmul = Callable[[Tensor], Tensor]
_SharedStep = tuple[Tensor, Tensor]


class Recurrence(Protocol):
    """One direction of a layer, for one call."""

    def input_gates(self, words: Tensor) -> Tensor:
        """Input matmul of n words, [n, input width], in the layout that `run` takes."""

    def run(
        self,
        gates: Tensor,
        start: int,
        index: Tensor | None,
        batch_sizes: Sequence[int],
        hidden: Tensor | None,
        cell: Tensor,
    ) -> Tensor:
        """Read packed words.

        Args:
            gates: result of `input_gates` for all words. Without `index`, entries that are read may be overwritten.
            start: the first word to read. Word k is entry start + k of `gates`, or entry `index[start + k]`.
            index: int64, or `None`.
            batch_sizes: number of active rows at each step, never increasing; not empty.
            hidden: [n, P], for at least the active rows; `None` for zeros.
            cell: [n, H], float32, likewise; overwritten with the last cell of each row.

        Returns:
            The hidden state after every word read, [sum of batch_sizes, P].
        """


def native_projected_lstm(
    inputs: Tensor, batch_sizes: Sequence[int], hidden: Tensor, cell: Tensor, *maps: Any, **settings: Any
) -> tuple[Tensor, Tensor, Tensor] | str:
    """`operators.projected_lstm` in compiled C, or the reason why not; arguments as in `torch_projected_lstm`."""
    index = settings.pop("index", None)
    reason = _declines(inputs, hidden, cell, maps) or native_declines(*maps)
    if reason:
        return reason
    return inference_lstm(inputs, batch_sizes, hidden, cell, NativeRecurrence(*maps, **settings), index=index)


def torch_projected_lstm(
    inputs: Tensor, batch_sizes: Sequence[int], hidden: Tensor, cell: Tensor, *maps: Any, **settings: Any
) -> tuple[Tensor, Tensor, Tensor] | str:
    """`operators.projected_lstm` with PyTorch's operators around fast matmuls, or the reason why not.

    Args:
        inputs, batch_sizes, hidden, cell: as in `operators.reference_lstm`.
        maps: three `operators.LinearMap`; the last is `None` for a cell without projection.
        settings: `cell_clip`, `projection_clip`, `forget_bias`, `index`.
    """
    index = settings.pop("index", None)
    reason = _declines(inputs, hidden, cell, maps)
    if reason:
        return reason
    matmuls = [
        each if each is None else packed_linear(each) if each.scale is None else int8_linear(each) for each in maps
    ]
    reason = next((matmul for matmul in matmuls if isinstance(matmul, str)), None)
    if reason:
        return reason
    recurrence = MatmulRecurrence(*matmuls, **settings)  # type: ignore[arg-type]
    return inference_lstm(inputs, batch_sizes, hidden, cell, recurrence, index=index)


def _declines(inputs: Tensor, hidden: Tensor, cell: Tensor, maps: Sequence[Any]) -> str | None:
    """The reason why a call cannot use these kernels; `None` if it can."""
    if inputs.device.type != "cpu":
        return "not on a CPU"
    if cell.dtype != torch.float32:
        return f"a cell in {cell.dtype}"
    if torch.is_grad_enabled() and (inputs.requires_grad or hidden.requires_grad or cell.requires_grad):
        return "gradients are required"
    if is_lowered_by_autocast():
        return "autocast to a lower dtype"
    if any(each is not None and each.keep is None for each in maps):
        return "a weight is trained, or its changes cannot be detected"
    if maps[0].bias is None or any(each is not None and each.bias is not None for each in maps[1:]):
        return "biases are not those of an LSTM"
    return None


class MatmulRecurrence:
    """A [`Recurrence`] of PyTorch's operators around fast matmuls, with in-place arithmetic between them."""

    def __init__(
        self,
        input_matmul: Matmul,
        hidden_matmul: Matmul,
        output_matmul: Matmul | None,
        cell_clip: float | None,
        projection_clip: float | None,
        forget_bias: float,
    ) -> None:
        self.input_matmul, self.hidden_matmul, self.output_matmul = input_matmul, hidden_matmul, output_matmul
        # A matmul that adds to its output saves a pass over the gates.
        self.hidden_matmul_plus = getattr(hidden_matmul, "plus", None)
        self.cell_clip, self.projection_clip = cell_clip, projection_clip
        self.forget_bias = forget_bias

    def input_gates(self, words: Tensor) -> Tensor:
        """[n, input width] -> [n, 4H]."""
        gates = self.input_matmul(words)
        if gates.dtype == torch.float32:
            # Added once for all steps, but not in half precision, where the sum would be rounded.
            gates[:, gates.shape[1] // 4 : gates.shape[1] // 2] += self.forget_bias
        return gates

    def run(
        self,
        gates: Tensor,
        start: int,
        index: Tensor | None,
        batch_sizes: Sequence[int],
        hidden: Tensor | None,
        cell: Tensor,
    ) -> Tensor:
        """Read packed words; arguments and result as in [`Recurrence.run`]."""
        outputs: list[Tensor] = []
        for running in batch_sizes:
            if index is None:
                read = gates[start : start + running]
            else:
                read = gates.index_select(0, index[start : start + running])
            hidden = self._step(read, None if hidden is None else hidden[:running], cell[:running])
            outputs.append(hidden)
            start += running
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _step(self, gates: Tensor, hidden: Tensor | None, cell: Tensor) -> Tensor:
        """Read one word per row: gates [n, 4H], overwritten; hidden [n, P]; cell [n, H], replaced by the new one."""
        half_precision = gates.dtype != cell.dtype
        if hidden is None:
            pass
        elif self.hidden_matmul_plus is not None:
            gates = self.hidden_matmul_plus(hidden, gates)
        else:
            gates = self.hidden_matmul(hidden).add_(gates)
        size = cell.shape[1]
        gates = gates.to(cell.dtype)
        if half_precision:
            gates[:, size : 2 * size] += self.forget_bias
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=1)
        gates[:, : 2 * size].sigmoid_()
        candidate.tanh_()
        output_gate.sigmoid_()
        cell.mul_(forget_gate).addcmul_(input_gate, candidate)
        if self.cell_clip is not None:
            cell.clamp_(-self.cell_clip, self.cell_clip)
        exposed = torch.tanh(cell).mul_(output_gate)
        if self.output_matmul is None:
            return exposed
        hidden = self.output_matmul(exposed)
        return hidden if self.projection_clip is None else hidden.clamp_(-self.projection_clip, self.projection_clip)


@torch.no_grad()
def inference_lstm(
    inputs: Tensor,
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    recurrence: Recurrence,
    *,
    index: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference_lstm` computed by a [`Recurrence`], for at least one word."""
    rows = batch_sizes[0]
    last_hidden, last_cell = hidden.to(inputs.dtype, copy=True), cell.clone(memory_format=torch.contiguous_format)
    starts_at_zero = not bool(hidden[:rows].any())
    shared: list[_SharedStep] = []
    if starts_at_zero and rows > 1 and not bool(cell[:rows].any()):
        shared = _shared_steps(inputs if index is None else index, batch_sizes)
    if index is None:
        gates = recurrence.input_gates(_words_read(inputs, shared))
    else:
        gates, index = recurrence.input_gates(inputs), _words_read(index, shared)

    state = None if starts_at_zero else hidden[:rows]  # hidden state of the active rows
    outputs: list[Tensor] = []
    read = 0
    if shared:
        group = torch.zeros(rows, dtype=torch.int64, device="cpu")  # of each active row: the index of its shared state
        states_hidden, states_cell = None, cell.new_zeros(1, cell.shape[1])
        for one_of_each, next_group in shared:
            running = len(next_group)
            if states_hidden is not None:
                last_hidden[running : len(group)] = states_hidden[group[running:]]
                last_cell[running : len(group)] = states_cell[group[running:]]
            before = group[one_of_each]
            states_cell = states_cell[before]
            states_hidden = None if states_hidden is None else states_hidden[before]
            states_hidden = recurrence.run(gates, read, index, [len(one_of_each)], states_hidden, states_cell)
            read += len(one_of_each)
            group = next_group
            outputs.append(states_hidden[group])
        assert states_hidden is not None
        state = states_hidden[group]
        last_cell[: len(group)] = states_cell[group]
        last_hidden[: len(group)] = state
    rest = batch_sizes[len(shared) :]
    if rest:
        outputs.append(recurrence.run(gates, read, index, rest, state, last_cell))
        last_hidden[: rest[0]] = outputs[-1][_last_places(rest)]
    packed = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return packed.to(inputs.dtype), last_hidden, last_cell


def _last_places(batch_sizes: Sequence[int]) -> Tensor:
    """Index of each active row's last word among the packed ones: [batch_sizes[0]]."""
    places = torch.arange(batch_sizes[0], device="cpu")
    start = 0
    for before, running in itertools.pairwise(batch_sizes):
        start += before
        places[:running] = torch.arange(start, start + running, device="cpu")
    return places


def _places(shared: list[_SharedStep]) -> tuple[Tensor, int]:
    """Index of one word read by every state of the shared steps, and the number of words in these steps."""
    places, start = [], 0
    for one_of_each, group in shared:
        places.append(start + one_of_each)
        start += len(group)
    return torch.cat(places), start


def _words_read(words: Tensor, shared: list[_SharedStep]) -> Tensor:
    """Packed words, with words that several rows read in one state kept once: [total, ...] -> [distinct, ...]."""
    if not shared:
        return words
    places, start = _places(shared)
    return torch.cat([words[places], words[start:]])


def _shared_steps(words: Tensor, batch_sizes: Sequence[int]) -> list[_SharedStep]:
    """The first steps from one common state, while many rows have read the same words.

    Args:
        words: packed [total] indices of words, or [total, width] their vectors.

    Returns:
        For each of these steps: one row of each group of rows that have read the same words; and the group of each row.
    """
    group = torch.zeros(batch_sizes[0], dtype=torch.int64, device="cpu")
    found: list[_SharedStep] = []
    start = 0
    for running in batch_sizes:
        one_of_each, group = _parted(group[:running], words[start : start + running])
        if len(one_of_each) > WORTH_SHARING * running:
            break
        found.append((one_of_each, group))
        start += running
    return found


def _parted(group: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Split every group of rows by the word that they read.

    Args:
        group: [n], int64, smaller than n.
        words: [n] indices of words, or [n, width] their vectors.

    Returns:
        One row of each new group [m], and the new group of each row [n].
    """
    if words.dim() == 1:
        keys = words
    else:
        bits = words.contiguous().view(torch.int16).to(torch.int64)
        odd = torch.arange(1, 2 * bits.shape[1], 2, device="cpu") * 0x5851F42D4C957F2D
        keys = (bits * odd).sum(dim=1)
    _, keys = torch.unique(keys, return_inverse=True)
    found, new_group = torch.unique(group * len(group) + keys, return_inverse=True)
    one_of_each = torch.empty_like(found).scatter_(0, new_group, torch.arange(len(group), device="cpu"))
    if words.dim() > 1 and not torch.equal(words[one_of_each][new_group], words):
        # Two vectors have the same hash: every row becomes its own group.
        return torch.arange(len(group), device="cpu"), torch.arange(len(group), device="cpu")
    return one_of_each, new_group
