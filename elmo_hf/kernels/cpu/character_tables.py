"""Convolutions over the characters of words, and the largest value of every filter.

`reference_maxima` defines the operation. Everything that encodes words calls `convolution_maxima`, which chooses an
implementation; a faster one has the reference's signature and is tested against it, gradients included.

The fast one looks values up instead of multiplying: a filter of width w over a character table of 262 rows can only
ever see 262 vectors at each of its w places. Their products are a table of w x 262 rows for each width, made once a
call, or once for all where nothing trains, and the value of a window is the sum of w of its rows.
"""

import weakref
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from elmo_hf.model.fingerprint import Fingerprint, can_have_fingerprint

# Rows of the one table that is looked up in, that of bytes. A dictionary of code points may have twenty thousand, most
# of which no batch holds: their products alone would take a gigabyte.
LOOKED_UP_ROWS = 262
EVERY_DTYPE = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Words encoded at a time: their windows' values stay in the processor's cache.
WORDS_OF_A_CHUNK = 256


# The tables of a character table's filters, until their weights change.
_kept: "weakref.WeakKeyDictionary[nn.Module, tuple[Fingerprint, list[Tensor]]]" = weakref.WeakKeyDictionary()


def reference_maxima(rows: Tensor, table: nn.Module, convolutions: Sequence[nn.Module]) -> Tensor:
    """Convolve and take the maximum.

    Args:
        rows: (n, characters), int64 ids of n words, at least as long as the widest filter.
        table: the character table, ids -> (..., D).
        convolutions: of widths w_k, (n, D, characters) -> (n, F_k, characters - w_k + 1).

    Returns:
        (n, sum of F_k), each filter's largest value over all windows of a word.
    """
    characters = table(rows).transpose(1, 2)  # [n, D, characters]
    return torch.cat([convolution(characters).amax(dim=-1) for convolution in convolutions], dim=-1)


def convolution_maxima(rows: Tensor, table: nn.Module, convolutions: Sequence[nn.Module]) -> Tensor:
    """Choose the implementation; arguments and result as `reference_maxima`, but float32 where half precision would
    be."""
    if _can_look_up(rows, table, convolutions):
        if not _trains(table, convolutions):
            plain = cast("nn.Embedding", table), cast("Sequence[nn.Conv1d]", convolutions)
            widths = [convolution.weight.shape[2] for convolution in plain[1]]
            return _largest_sums(rows, _kept_products(*plain), widths, False)[0]
        _kept.pop(table, None)
        weights = [convolution.weight for convolution in convolutions]
        biases = [convolution.bias for convolution in convolutions]
        # The sums are exact in the weights' own precision and no faster in a lower one.
        with torch.autocast("cpu", enabled=False):
            return _LookedUpMaxima.apply(rows, table.weight, table.padding_idx, len(weights), *weights, *biases)
    return reference_maxima(rows, table, convolutions)


def _can_look_up(rows: Tensor, table: nn.Module, convolutions: Sequence[nn.Module]) -> bool:
    """Whether all modules are plain ones in full precision, on a processor whose sums over table rows are fast."""
    # First of all: a length that is asked for is a constant to an exporter.
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or rows.device.type != "cpu" or not len(rows):
        return False
    if type(table) is not nn.Embedding or any(type(convolution) is not nn.Conv1d for convolution in convolutions):
        return False
    if table.num_embeddings != LOOKED_UP_ROWS:
        return False
    modules = [table, *convolutions]
    if any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in modules
    ):
        return False
    parameters = [parameter for module in modules for parameter in module.parameters(recurse=False)]
    dtype = table.weight.dtype
    served = (torch.float32, torch.float64) if _trains(table, convolutions) else EVERY_DTYPE
    return dtype in served and all(
        type(parameter) is nn.Parameter and parameter.dtype == dtype and parameter.device == rows.device
        for parameter in parameters
    )


def _trains(table: nn.Module, convolutions: Sequence[nn.Module]) -> bool:
    return torch.is_grad_enabled() and any(
        parameter.requires_grad for module in (table, *convolutions) for parameter in module.parameters(recurse=False)
    )


def _kept_products(table: nn.Embedding, convolutions: Sequence[nn.Conv1d]) -> list[Tensor]:
    """The tables of all filters, in float32 or wider, made again when a weight has changed."""
    weights: list[Tensor | None] = [table.weight]
    for convolution in convolutions:
        weights += [convolution.weight, convolution.bias]
    can_be_kept = all(weight is None or can_have_fingerprint(weight) for weight in weights)
    if can_be_kept and table in _kept and _kept[table][0].is_of(weights):
        return _kept[table][1]
    dtype = torch.promote_types(table.weight.dtype, torch.float32)
    # Tensors made in inference mode could not be used outside of it.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        rows = table.weight.to(dtype)
        products = [
            _products(rows, layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype))
            for layer in convolutions
        ]
    if can_be_kept:
        _kept[table] = Fingerprint(weights), products
    return products


def _largest_sums(
    rows: Tensor, products: list[Tensor], widths: list[int], with_positions: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Look up and add.

    Returns:
        The maxima (n, sum of F_k). For the backward pass: the rows in the order of their lengths, that order, and in
        it the first window of each maximum (n, sum of F_k), empty if not asked for.
    """
    widest = max(widths)
    # Short words first: a chunk is as long as its own longest word. Behind the last character that differs from the end
    # of its row all windows are alike, so that one window of each filter stands for them.
    differs = rows != rows[:, -1:]
    lengths = (differs * torch.arange(1, rows.shape[1] + 1)).amax(dim=1)
    order = lengths.argsort()
    rows, ends = rows[order], lengths[order].tolist()
    maxima = products[0].new_empty(len(rows), sum(product.shape[1] for product in products))
    # A row is shorter than 128 characters, or its windows do not fit eight bits.
    position_dtype = torch.int8 if rows.shape[1] < 128 else torch.int32
    positions = torch.empty(maxima.shape if with_positions else (0,), dtype=position_dtype)
    for start in range(0, len(rows), WORDS_OF_A_CHUNK):
        stop = min(start + WORDS_OF_A_CHUNK, len(rows))
        characters = rows[start:stop, : ends[stop - 1] + widest]
        column = 0
        for width, product in zip(widths, products, strict=True):
            filters = product.shape[1]
            offsets = torch.arange(width) * (len(product) // width)
            windows = characters.unfold(1, width, 1) + offsets  # [words, windows, width]
            values = functional.embedding_bag(windows.reshape(-1, width), product, mode="sum")
            values = values.view(stop - start, -1, filters)
            largest = values.amax(dim=1)
            maxima[start:stop, column : column + filters] = largest
            if with_positions:
                # The first of equal values, by a maximum over falling numbers: many times faster than `argmax`.
                count_down = torch.arange(values.shape[1], 0, -1, dtype=position_dtype)
                found = values.eq(largest.unsqueeze(1)).to(position_dtype).mul_(count_down[:, None])
                # NaN equals nothing; any window serves it.
                nearest = found.amax(dim=1).clamp_(min=1)
                positions[start:stop, column : column + filters] = values.shape[1] - nearest
            column += filters
    restored = torch.empty_like(maxima)
    restored[order] = maxima
    return restored, rows, order, positions


class _LookedUpMaxima(torch.autograd.Function):
    """Arguments and result as `reference_maxima`, with the modules' weights."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, table: Tensor, padding_index: int | None, count: int, *parameters: Tensor
    ) -> Tensor:
        weights, biases = parameters[:count], parameters[count:]
        products = [_products(table, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        maxima, rows, order, positions = _largest_sums(rows, products, [weight.shape[2] for weight in weights], True)
        ctx.save_for_backward(rows, order, positions, table, *weights)
        ctx.padding_index = padding_index
        return maxima

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, order, positions, table, *weights = ctx.saved_tensors
        gradient = gradient[order]
        of_table = torch.zeros_like(table)
        of_weights, of_biases = [], []
        column = 0
        for weight in weights:
            filters, _, width = weight.shape
            part = gradient[:, column : column + filters].contiguous()
            first = positions[:, column : column + filters].long()  # [n, filters]
            column += filters
            of_weight = torch.empty_like(weight)
            filter_numbers = torch.arange(filters)
            for place in range(width):
                # Only the characters below the largest window have a part in it.
                index = rows.gather(1, first + place).mul_(filters).add_(filter_numbers)
                of_products = table.new_zeros(len(table) * filters)
                of_products.scatter_add_(0, index.flatten(), part.flatten())
                of_products = of_products.view(len(table), filters)
                of_weight[:, :, place] = of_products.T @ table
                of_table.addmm_(of_products, weight[:, :, place])
            of_weights.append(of_weight)
            of_biases.append(part.sum(dim=0))
        if ctx.padding_index is not None:
            of_table[ctx.padding_index] = 0.0
        return None, of_table, None, None, *of_weights, *of_biases


def _products(table: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(width * rows, filters): what each character adds to each filter at each of its places; the bias at the first."""
    filters, _, width = weight.shape
    products = torch.matmul(table, weight.permute(2, 1, 0))  # [width, rows, filters]
    if bias is not None:
        products[0] += bias
    return products.view(width * len(table), filters)
