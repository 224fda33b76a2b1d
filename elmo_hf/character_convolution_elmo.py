"""Convolutions over the characters of words, and the largest value of every filter.

`reference_maxima` defines the operation. Everything that encodes words calls `convolution_maxima`, which chooses an
implementation; a faster one has the reference's signature and is tested against it, gradients included.

The fast one looks values up instead of multiplying: a filter of width w over a character table of 262 rows can only
ever see 262 vectors at each of its w places. Their products are a table of w x 262 rows for each width, made once a
call, and the value of a window is the sum of w of its rows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Rows of the one table that is looked up in, that of bytes. A dictionary of code points may have twenty thousand, most
# of which no batch holds: their products alone would take a gigabyte.
LOOKED_UP_ROWS = 262
# Words encoded at a time: their windows' values stay in the processor's cache.
WORDS_OF_A_CHUNK = 256


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
    """Choose the implementation; arguments and result as `reference_maxima`."""
    if _can_look_up(rows, table, convolutions):
        weights = [convolution.weight for convolution in convolutions]
        biases = [convolution.bias for convolution in convolutions]
        # The sums are exact in the weights' own precision and no faster in a lower one.
        with torch.autocast("cpu", enabled=False):
            return _LookedUpMaxima.apply(rows, table.weight, table.padding_idx, len(weights), *weights, *biases)
    return reference_maxima(rows, table, convolutions)


def _can_look_up(rows: Tensor, table: nn.Module, convolutions: Sequence[nn.Module]) -> bool:
    """Whether all modules are plain ones in full precision, on a processor whose sums over table rows are fast."""
    if rows.device.type != "cpu" or not len(rows) or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if type(table) is not nn.Embedding or any(type(convolution) is not nn.Conv1d for convolution in convolutions):
        return False
    if table.num_embeddings != LOOKED_UP_ROWS:
        return False
    modules = [table, *convolutions]
    if any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in modules):
        return False
    parameters = [parameter for module in modules for parameter in module.parameters(recurse=False)]
    dtype = table.weight.dtype
    return dtype in (torch.float32, torch.float64) and all(
        type(parameter) is nn.Parameter and parameter.dtype == dtype and parameter.device == rows.device
        for parameter in parameters
    )


class _LookedUpMaxima(torch.autograd.Function):
    """Arguments and result as `reference_maxima`, with the modules' weights."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, table: Tensor, padding_index: int | None, count: int, *parameters: Tensor
    ) -> Tensor:
        weights, biases = parameters[:count], parameters[count:]
        widest = max(weight.shape[2] for weight in weights)
        # Short words first: a chunk is as long as its own longest word. Behind the last character that differs from
        # the end of its row all windows are alike, so that one window of each filter stands for them.
        differs = rows != rows[:, -1:]
        lengths = (differs * torch.arange(1, rows.shape[1] + 1)).amax(dim=1)
        order = lengths.argsort()
        rows, ends = rows[order], lengths[order].tolist()
        needs_gradient = any(ctx.needs_input_grad)
        maxima = table.new_empty(len(rows), sum(weight.shape[0] for weight in weights))
        # The first window of each maximum: a row is shorter than 128 characters, or its windows do not fit eight bits.
        position_dtype = torch.int8 if rows.shape[1] < 128 else torch.int32
        positions = torch.empty(maxima.shape if needs_gradient else (0,), dtype=position_dtype)
        products = [_products(table, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        for start in range(0, len(rows), WORDS_OF_A_CHUNK):
            stop = min(start + WORDS_OF_A_CHUNK, len(rows))
            characters = rows[start:stop, : ends[stop - 1] + widest]
            column = 0
            for weight, product in zip(weights, products, strict=True):
                filters, _, width = weight.shape
                windows = characters.unfold(1, width, 1) + torch.arange(width) * len(table)  # [words, windows, width]
                values = functional.embedding_bag(windows.reshape(-1, width), product, mode="sum")
                values = values.view(stop - start, -1, filters)
                largest = values.amax(dim=1)
                maxima[start:stop, column : column + filters] = largest
                if needs_gradient:
                    # The first of equal values, by a maximum over falling numbers: many times faster than `argmax`.
                    count_down = torch.arange(values.shape[1], 0, -1, dtype=position_dtype)
                    found = values.eq(largest.unsqueeze(1)).to(position_dtype).mul_(count_down[:, None])
                    # NaN equals nothing; any window serves it.
                    nearest = found.amax(dim=1).clamp_(min=1)
                    positions[start:stop, column : column + filters] = values.shape[1] - nearest
                column += filters
        if needs_gradient:
            ctx.save_for_backward(rows, order, positions, table, *weights)
            ctx.padding_index = padding_index
        restored = torch.empty_like(maxima)
        restored[order] = maxima
        return restored

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
