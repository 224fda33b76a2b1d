"""The recurrence of `lstm_elmo.reference_lstm` on a processor, where no gradient is wanted.

Three things make it fast: products with packed weights (`packed_linear_elmo`), the input product only once for words
that recur, and point-wise arithmetic in place. Rows that have read the same words from the same zero state are in the
same state: they are computed as one until they part. All rows of a batch begin so, at `<S>`; backwards, many part only
before their full stop.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .packed_linear_elmo import PackedLinear, product_of

# Rows in the same state are computed as one as long as this share of the rows, or less, differs.
WORTH_SHARING = 0.85


Product = Callable[[Tensor], Tensor]
Products = tuple[Product, Product, Product | None]
_SharedStep = tuple[Tensor, Tensor]


def inference_products(
    inputs: Tensor, hidden: Tensor, cell: Tensor, layers: Sequence[nn.Module | None]
) -> Products | None:
    """The products with which `inference_lstm` serves a call of `projected_lstm`, or `None` where it does not.

    It runs on a processor, untraced, where no gradient is wanted, over the three maps of a direction, if all are fast:
    an `nn.Linear` that packs, or a layer whose class says that a call is a fast product (`is_fast_product = True`: a
    quantised layer) and that nothing is attached to.
    """
    if inputs.device.type != "cpu" or not len(inputs) or cell.dtype != torch.float32:
        return None
    if torch.is_grad_enabled() and (inputs.requires_grad or hidden.requires_grad or cell.requires_grad):
        return None
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"):
        return None
    products: list[Product | None] = []
    for layer in layers:
        product = None if layer is None else product_of(layer)
        if product is not None and not isinstance(product, PackedLinear) and not _is_declared_fast(product):
            return None
        products.append(product)
    return cast("Products", tuple(products))


def _is_declared_fast(layer: Any) -> bool:
    attached = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    return bool(getattr(type(layer), "is_fast_product", False)) and not attached


class _Cell:
    """One step of the recurrence on some rows."""

    def __init__(
        self,
        hidden_product: Product,
        output_product: Product | None,
        cell_clip: float | None,
        projection_clip: float | None,
        forget_bias: float,
    ) -> None:
        self.hidden_product, self.output_product = hidden_product, output_product
        # A product that adds to something what it computes saves a pass over the gates.
        self.hidden_product_plus = getattr(hidden_product, "plus", None)
        self.cell_clip, self.projection_clip = cell_clip, projection_clip
        # What the input products do not have yet.
        self.forget_bias = forget_bias

    def __call__(self, gates: Tensor, hidden: Tensor | None, cell: Tensor) -> Tensor:
        """Read one word a row.

        Args:
            gates: [n, 4H], the input product; overwritten.
            hidden: [n, P], `None` for zeros.
            cell: [n, H], float32; becomes the new one.

        Returns:
            The new hidden, [n, P].
        """
        if hidden is None:
            pass
        elif self.hidden_product_plus is not None:
            gates = self.hidden_product_plus(hidden, gates)
        else:
            gates = self.hidden_product(hidden).add_(gates)
        size = cell.shape[1]
        gates = gates.to(cell.dtype)
        if self.forget_bias:
            gates[:, size : 2 * size] += self.forget_bias
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=1)
        gates[:, : 2 * size].sigmoid_()
        candidate.tanh_()
        output_gate.sigmoid_()
        cell.mul_(forget_gate).addcmul_(input_gate, candidate)
        if self.cell_clip is not None:
            cell.clamp_(-self.cell_clip, self.cell_clip)
        exposed = torch.tanh(cell).mul_(output_gate)
        if self.output_product is None:
            return exposed
        hidden = self.output_product(exposed)
        return hidden if self.projection_clip is None else hidden.clamp_(-self.projection_clip, self.projection_clip)


@torch.no_grad()
def inference_lstm(
    inputs: Tensor,
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    products: Products,
    *,
    cell_clip: float | None,
    projection_clip: float | None,
    forget_bias: float,
    index: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference_lstm` with the products that `inference_products` found, which is to say at least one word."""
    input_product, hidden_product, output_product = products
    step = _Cell(hidden_product, output_product, cell_clip, projection_clip, forget_bias)
    size, rows = cell.shape[1], batch_sizes[0]
    outputs = inputs.new_empty(sum(batch_sizes), hidden.shape[1])
    last_hidden, last_cell = hidden.to(inputs.dtype, copy=True), cell.clone()
    starts_at_zero = not bool(hidden[:rows].any())
    shared: list[_SharedStep] = []
    if starts_at_zero and rows > 1 and not bool(cell[:rows].any()):
        shared = _shared_steps(inputs if index is None else index, batch_sizes)
    gates = input_product(_words_read(inputs, shared) if index is None else inputs)
    if gates.dtype == cell.dtype:
        # Once for all steps, but not in half precision: the bias would round what it is added to.
        gates[:, size : 2 * size] += forget_bias
        step.forget_bias = 0.0
    gates_of = _gates_of_steps(gates, batch_sizes, index, shared)

    state = None if starts_at_zero else last_hidden[:rows]  # hidden of the rows that run
    start = 0
    if shared:
        group = torch.zeros(rows, dtype=torch.int64)  # of each row that runs: its place among the states
        states_cell = cell.new_zeros(1, size)
        states_hidden: Tensor | None = None
        for one_of_each, next_group in shared:
            running = len(next_group)
            if states_hidden is not None:
                last_hidden[running : len(group)] = states_hidden[group[running:]]
                last_cell[running : len(group)] = states_cell[group[running:]]
            before = group[one_of_each]
            states_cell = states_cell[before]
            before_hidden = None if states_hidden is None else states_hidden[before]
            states_hidden = step(next(gates_of), before_hidden, states_cell)
            group = next_group
            outputs[start : start + running] = states_hidden[group].to(outputs.dtype)
            start += running
        assert states_hidden is not None
        state = states_hidden[group]
        last_cell[: len(group)] = states_cell[group]
    for running in batch_sizes[len(shared) :]:
        if state is not None and running < len(state):
            last_hidden[running : len(state)] = state[running:]
            state = state[:running]
        state = step(next(gates_of), state, last_cell[:running])
        outputs[start : start + running] = state
        start += running
    if state is not None:
        last_hidden[: len(state)] = state
    return outputs, last_hidden, last_cell


def _places(shared: list[_SharedStep]) -> tuple[Tensor, int]:
    """For every state of the shared steps the place of a word that it reads, and how many words these steps have."""
    places, start = [], 0
    for one_of_each, group in shared:
        places.append(start + one_of_each)
        start += len(group)
    return torch.cat(places), start


def _words_read(words: Tensor, shared: list[_SharedStep]) -> Tensor:
    """Packed words without those that several rows read in one state: [total, ...] -> [states of all steps, ...]."""
    if not shared:
        return words
    places, start = _places(shared)
    return torch.cat([words[places], words[start:]])


def _gates_of_steps(
    gates: Tensor, batch_sizes: Sequence[int], index: Tensor | None, shared: list[_SharedStep]
) -> Iterator[Tensor]:
    """For each step the input product of the states that it computes, [n, 4H], to be overwritten."""
    counts = [len(one_of_each) for one_of_each, _ in shared] + list(batch_sizes[len(shared) :])
    if index is None:
        yield from gates.split(counts)
    else:
        for words in _words_read(index, shared).split(counts):
            yield gates.index_select(0, words)


def _shared_steps(words: Tensor, batch_sizes: Sequence[int]) -> list[_SharedStep]:
    """The first steps from one state, as long as many rows have read the same.

    Args:
        words: packed [total] indices of words, or [total, width] their vectors.

    Returns:
        For each of these steps: for each group of rows that have read the same, one of them; and the group of each row.
    """
    group = torch.zeros(batch_sizes[0], dtype=torch.int64)
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
    """Part the rows of every group by the word that they read.

    Args:
        group: [n], int64, smaller than n.
        words: [n] indices of words, or [n, width] their vectors.

    Returns:
        For each new group one of its rows [m], and for each row its new group [n].
    """
    if words.dim() == 1:
        keys = words
    else:
        bits = words.contiguous().view(torch.int16).to(torch.int64)
        odd = torch.arange(1, 2 * bits.shape[1], 2) * 0x5851F42D4C957F2D
        keys = (bits * odd).sum(dim=1)
    _, keys = torch.unique(keys, return_inverse=True)
    found, new_group = torch.unique(group * len(group) + keys, return_inverse=True)
    one_of_each = torch.empty_like(found).scatter_(0, new_group, torch.arange(len(group)))
    if words.dim() > 1 and not torch.equal(words[one_of_each][new_group], words):
        # Two vectors of one hash: every row for itself.
        return torch.arange(len(group)), torch.arange(len(group))
    return one_of_each, new_group
