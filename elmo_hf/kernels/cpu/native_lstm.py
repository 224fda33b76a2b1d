"""The recurrence of `operators.reference_lstm` in compiled C, on a CPU, without gradients.

Implements [`inference.Recurrence`] for float32, bfloat16 and int8 weights. Bfloat16 halves the memory; CPUs with
AVX-512 bf16 also multiply it, others widen it as it is read. Arithmetic between matmuls and the hidden state are
float32. bfloat16 and int8 are left to PyTorch where its kernels use instructions that this library does not
(`native_works`).
"""

import ctypes
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .builder import InputMatmul, Recurrence, Weight, cpu_supports, native_library
from .int8 import LEVELS, signed_levels
from .memory_pages import drop_pages, in_huge_pages
from .onednn import packing_works

# Kinds of weights in the C code.
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}


class Map(NamedTuple):
    """A linear map in the layout of the C code. It owns the memory of `weight` and must outlive its use."""

    weight: Weight
    panels: Tensor
    scale: Tensor | None
    sums: Tensor | None

    @classmethod
    def of(cls, linear_map: Any, panel: int, gates: int = 1) -> "Map":
        """Pack an `operators.LinearMap` whose outputs form `gates` blocks; panels of the blocks alternate."""
        weight, scale = linear_map.weight, linear_map.scale
        panels, sums = linear_map.keep(f"panels of {gates}", lambda: _prepare(weight.detach(), panel, gates))
        if sums is None:
            return cls(Weight(panels.data_ptr(), None, None, KINDS[weight.dtype], *weight.shape, 0), panels, None, None)
        scale = _by_panel(scale.float(), panel, gates)
        fields = (panels.data_ptr(), scale.data_ptr(), sums.data_ptr(), KINDS[weight.dtype], *weight.shape)
        return cls(Weight(*fields, signed_levels()), panels, scale, sums)


class NativeRecurrence:
    """One direction of a layer, for one call; see [`inference.Recurrence`].

    Gates are [4H / (4 * panel), words, 4, panel], so that each step reads contiguous memory of a word.
    """

    def __init__(
        self,
        input_map: Any,
        hidden_map: Any,
        output_map: Any | None,
        cell_clip: float | None,
        projection_clip: float | None,
        forget_bias: float,
    ) -> None:
        library = native_library()
        assert library is not None
        self._library, self._panel = library, library.elmo_panel()
        self._bias = _gate_bias(input_map.bias, self._panel, forget_bias)
        self._input, self._hidden = (Map.of(layer, self._panel, gates=4) for layer in (input_map, hidden_map))
        self._output = None if output_map is None else Map.of(output_map, self._panel)
        self._cell_clip = math.inf if cell_clip is None else cell_clip
        self._projection_clip = math.inf if projection_clip is None else projection_clip

    def input_gates(self, words: Tensor) -> Tensor:
        """Input matmul of n words, [n, input width]."""
        if words.dim() != 2 or words.shape[1] != self._input.weight.inputs:
            raise ValueError(f"words have shape {tuple(words.shape)}: expected (words, {self._input.weight.inputs})")
        words = words.float().contiguous()
        count, groups = len(words), self._input.weight.outputs // 4 // self._panel
        gates = in_huge_pages(groups * count * 4 * self._panel, torch.float32).view(groups, count, 4, self._panel)
        job = InputMatmul(
            inputs=words.data_ptr(),
            rows=count,
            weight=self._input.weight,
            bias=self._bias.data_ptr(),
            gates=gates.data_ptr(),
        )
        _raise_if(self._library.elmo_input_matmul(ctypes.byref(job), torch.get_num_threads()))
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
        """Read packed words; arguments and result as in [`inference.Recurrence.run`]."""
        rows, total = batch_sizes[0], sum(batch_sizes)
        running = torch.tensor(batch_sizes, dtype=torch.int64, device="cpu")
        outputs = torch.empty(total, self._hidden.weight.inputs, dtype=torch.float32, device="cpu")
        first = 0 if index is not None else start * 4 * self._panel * gates.element_size()
        if index is not None:
            index = index[start : start + total].to(torch.int64).contiguous()
        if hidden is not None:
            hidden = hidden[:rows].float().contiguous()
        self._check(gates, start, index, batch_sizes, hidden, cell)
        job = Recurrence(
            steps=len(batch_sizes),
            running=running.data_ptr(),
            gates=gates.data_ptr() + first,
            words=gates.shape[1],
            index=None if index is None else index.data_ptr(),
            hidden=None if hidden is None else hidden.data_ptr(),
            cell=cell.data_ptr(),
            outputs=outputs.data_ptr(),
            hidden_weight=self._hidden.weight,
            output_weight=Weight() if self._output is None else self._output.weight,
            cell_clip=self._cell_clip,
            projection_clip=self._projection_clip,
        )
        _raise_if(self._library.elmo_recurrence(ctypes.byref(job), torch.get_num_threads()))
        return outputs

    def _check(
        self,
        gates: Tensor,
        start: int,
        index: Tensor | None,
        batch_sizes: Sequence[int],
        hidden: Tensor | None,
        cell: Tensor,
    ) -> None:
        """Refuse arguments that would make the C code read or write out of bounds.

        Raises:
            ValueError, IndexError.
        """
        rows, total = batch_sizes[0], sum(batch_sizes)
        width, size = self._hidden.weight.inputs, self._hidden.weight.outputs // 4
        if min(batch_sizes) < 1 or any(one < other for one, other in itertools.pairwise(batch_sizes)):
            raise ValueError(f"batch_sizes are {list(batch_sizes)}: expected positive numbers that never grow")
        if hidden is not None and (hidden.shape[0] < rows or hidden.shape[1:] != (width,)):
            raise ValueError(f"hidden has shape {tuple(hidden.shape)}: expected (at least {rows}, {width})")
        if cell.dim() != 2 or len(cell) < rows or cell.shape[1] != size:
            raise ValueError(f"cell has shape {tuple(cell.shape)}: expected (at least {rows}, {size})")
        if cell.dtype != torch.float32 or not cell.is_contiguous():
            raise ValueError("cell must be contiguous, in float32: it is written to")
        words = gates.shape[1]
        if index is None:
            if start + total > words:
                raise ValueError(f"{start + total} words are to be read: there are {words}")
        elif len(index) != total:
            raise ValueError(f"index has {start + len(index)} words: expected at least {start + total}")
        else:
            low, high = (int(bound) for bound in torch.aminmax(index))
            if low < 0 or high >= words:
                raise IndexError(f"index holds {low if low < 0 else high}: expected places from 0 to {words - 1}")


def native_declines(input_map: Any, hidden_map: Any, output_map: Any | None) -> str | None:
    """The reason why `NativeRecurrence` cannot use the maps of a direction; `None` if it can."""
    weights = [each.weight for each in (input_map, hidden_map, output_map) if each is not None]
    if len({weight.dtype for weight in weights}) > 1:
        return "weights of several dtypes"
    if not native_works(weights[0].dtype):
        return f"no compiled kernel for {weights[0].dtype} here"
    library = native_library()
    assert library is not None
    panel, (gates, width) = library.elmo_panel(), weights[1].shape
    size = gates // 4
    fits = weights[0].shape == (gates, width) and gates == 4 * size
    fits = fits and (width == size if output_map is None else weights[2].shape == (width, size))
    return None if fits and size % panel == 0 and width % panel == 0 else f"sizes that are not multiples of {panel}"


@functools.cache
def native_works(dtype: torch.dtype) -> bool:
    """True if the library is available, supports weights of a dtype, and is the fastest choice on this CPU."""
    if dtype not in KINDS:
        return False
    library = native_library()
    if library is None or dtype == torch.float32:
        return library is not None
    if cpu_supports("amx_tile"):
        return False  # oneDNN multiplies whole tiles there, which the library does not
    if dtype == torch.bfloat16:
        # Widened weights are multiplied in float32: slower than bfloat16, faster than to emulate it.
        return bool(library.elmo_multiplies_bfloat16()) or not packing_works(dtype)
    # With all levels, sums of 16 bits would overflow.
    return library.elmo_int8_sum_bits() >= (32 if signed_levels() == LEVELS else 16)


def _by_panel(values: Tensor, panel: int, gates: int) -> Tensor:
    """Per-output values reordered like the panels."""
    return values.view(gates, -1, panel).transpose(0, 1).contiguous()


def _prepare(weight: Tensor, panel: int, gates: int) -> tuple[Tensor, Tensor | None]:
    """The panels of a weight and, for int8, the sum of each output's weights in panel order."""
    if weight.dtype != torch.int8:
        return _panels(weight, panel, gates), None
    sums = _by_panel(weight.sum(1, dtype=torch.int32), panel, gates)
    return _panels(weight, panel, gates), sums


def _panels(weight: Tensor, panel: int, gates: int) -> Tensor:
    """Rearrange a weight [out, in] for the C code: a flat tensor of the same dtype."""
    outputs, inputs = weight.shape
    packed = in_huge_pages(weight.numel(), weight.dtype)
    parts = weight.view(gates, outputs // gates // panel, panel, inputs).permute(1, 0, 3, 2)
    library = native_library()
    assert library is not None
    if weight.dtype == torch.int8 or (weight.dtype == torch.bfloat16 and library.elmo_multiplies_bfloat16()):
        # Four bytes of inputs side by side: their products are summed in one 32-bit lane.
        parts = parts.unflatten(-2, (-1, 4 // weight.element_size())).transpose(-1, -2)
    elif weight.dtype == torch.bfloat16:
        # The two halves of a panel are interleaved, so that one shift and one mask widen a pair.
        parts = parts.unflatten(-1, (2, panel // 2)).transpose(-1, -2)
    packed.view(parts.shape).copy_(parts)
    drop_pages(weight)
    return packed


def _gate_bias(given: Tensor, panel: int, forget_bias: float) -> Tensor:
    """The bias of all gates, in panel order."""
    bias = given.detach().float().view(4, -1, panel)
    shift = torch.tensor([0.0, forget_bias, 0.0, 0.0], dtype=torch.float32, device="cpu").view(4, 1, 1)
    return (bias + shift).transpose(0, 1).contiguous()


def _raise_if(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for the intermediate values of a biLSTM layer: use smaller batches")
