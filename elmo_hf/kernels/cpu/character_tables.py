"""Convolutions over the characters of words, max-pooled per filter.

`operators.reference_maxima` defines the operation. This implementation replaces multiplications by lookups. A filter of
width w over a character table of 262 rows sees only 262 different vectors at each of its w positions. Its dot products
with them form a table of w x 262 rows, computed once per call, or once for all if nothing trains. The value of a window
is then the sum of w table rows.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .native_characters import native_largest_sums, native_serves, native_table_gradients

# Rows of the byte table, the only one supported. A code point dictionary may have twenty thousand rows, most of them
# absent from any batch: its dot products alone would take a gigabyte.
LOOKED_UP_ROWS = 262
EVERY_DTYPE = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Words encoded at a time, so that the values of their windows stay in the CPU's cache.
WORDS_OF_A_CHUNK = 256


def character_maxima(
    rows: Tensor,
    table: Tensor,
    padding_index: int | None,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    keep: Callable[[str, Callable[[], Any]], Any] | None,
    *,
    native: bool = False,
) -> Tensor | str:
    """Max-pooled convolutions over characters, or the reason why this kernel cannot be used.

    Args:
        rows: (n, characters), int64 ids of n > 0 words, at least as long as the widest filter.
        table: (262, D), the character table.
        padding_index: row of `table` without gradient, or `None`.
        weights, biases: of the convolutions, (F_k, D, w_k) and (F_k,).
        keep: as in `operators.LinearMap`; `None` if nothing may be cached.
        native: look up in compiled C, which supports all dtypes but float64.

    Returns:
        (n, sum of F_k), in the dtype of the weights, or float32 for half-precision weights.
    """
    if rows.device.type != "cpu":
        return "not on a CPU"
    if len(table) != LOOKED_UP_ROWS:
        return f"a character table of {len(table)} rows"
    parameters = [table, *weights, *(bias for bias in biases if bias is not None)]
    if any(
        type(each) is not nn.Parameter or each.dtype != table.dtype or each.device != rows.device for each in parameters
    ):
        return "weights of several dtypes, devices or kinds"
    trains = torch.is_grad_enabled() and any(each.requires_grad for each in parameters)
    if table.dtype not in ((torch.float32, torch.float64) if trains else EVERY_DTYPE):
        return f"weights in {table.dtype}"
    if native and (table.dtype == torch.float64 or not native_serves(rows)):
        return "no compiled kernel for these sizes and dtypes here"
    # Sums in a lower precision than the weights' would be less exact and no faster.
    with torch.autocast("cpu", enabled=False):
        if trains:
            return _LookedUpMaxima.apply(rows, native, table, padding_index, len(weights), *weights, *biases)

        def make() -> list[Tensor]:
            dtype = torch.promote_types(table.dtype, torch.float32)
            wide = table.to(dtype)
            return [
                _dot_products(wide, weight.to(dtype), None if bias is None else bias.to(dtype))
                for weight, bias in zip(weights, biases, strict=True)
            ]

        products = make() if keep is None else keep("character tables", make)
        find = native_largest_sums if native else largest_sums
        return find(rows, products, [weight.shape[2] for weight in weights], False)[0]


def largest_sums(
    rows: Tensor, products: Sequence[Tensor], widths: Sequence[int], with_positions: bool
) -> tuple[Tensor, Tensor]:
    """Look up and add the dot products of every window, and take the maximum per filter.

    Args:
        rows: (n, characters).
        products: for each width (width * table rows, F_k), from `_dot_products`.

    Returns:
        The maxima (n, sum of F_k), and the integer index of the first window of each; (0, sum of F_k) without
        `with_positions`.
    """
    widest = max(widths)
    # Short words first: a chunk is as long as its longest word. After the last character that differs from the end of
    # its row, all windows are equal, so one window of each filter stands for them.
    differs = rows != rows[:, -1:]
    lengths = (differs * torch.arange(1, rows.shape[1] + 1)).amax(dim=1)
    order = lengths.argsort()
    rows, ends = rows[order], lengths[order].tolist()
    total = sum(product.shape[1] for product in products)
    maxima = products[0].new_empty(len(rows), total)
    # Window indices fit 8 bits if a row has fewer than 128 characters.
    position_dtype = torch.int8 if rows.shape[1] < 128 else torch.int32
    positions = torch.empty(len(rows) if with_positions else 0, total, dtype=position_dtype)
    for start in range(0, len(rows), WORDS_OF_A_CHUNK):
        stop = min(start + WORDS_OF_A_CHUNK, len(rows))
        characters, places = rows[start:stop, : ends[stop - 1] + widest], order[start:stop]
        column = 0
        for width, product in zip(widths, products, strict=True):
            filters = product.shape[1]
            offsets = torch.arange(width) * (len(product) // width)
            windows = characters.unfold(1, width, 1) + offsets  # [words, windows, width]
            values = functional.embedding_bag(windows.reshape(-1, width), product, mode="sum")
            values = values.view(stop - start, -1, filters)
            largest = values.amax(dim=1)
            maxima[places, column : column + filters] = largest
            if with_positions:
                # The first of equal values, as a maximum over decreasing numbers: many times faster than `argmax`.
                count_down = torch.arange(values.shape[1], 0, -1, dtype=position_dtype)
                found = values.eq(largest.unsqueeze(1)).to(position_dtype).mul_(count_down[:, None])
                # NaN equals nothing; any window will do.
                nearest = found.amax(dim=1).clamp_(min=1)
                positions[places, column : column + filters] = values.shape[1] - nearest
            column += filters
    return maxima, positions


def table_gradients(
    rows: Tensor, positions: Tensor, gradient: Tensor, widths: Sequence[int], filters: Sequence[int], table_rows: int
) -> list[Tensor]:
    """Gradients of the dot products that `largest_sums` read, from the gradient of its maxima (n, sum of F_k).

    Returns:
        For each width (width * table rows, F_k).
    """
    gradients, column = [], 0
    for width, count in zip(widths, filters, strict=True):
        part = gradient[:, column : column + count].flatten()
        first = positions[:, column : column + count].long()  # [n, count]
        column += count
        of_products = gradient.new_zeros(width, table_rows * count)
        filter_numbers = torch.arange(count)
        for place in range(width):
            # Only the characters of the largest window get a gradient.
            index = rows.gather(1, first + place).mul_(count).add_(filter_numbers)
            of_products[place].scatter_add_(0, index.flatten(), part)
        gradients.append(of_products.view(width * table_rows, count))
    return gradients


class _LookedUpMaxima(torch.autograd.Function):
    """Autograd function of `character_maxima`."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, native: bool, table: Tensor, padding_index: int | None, count: int, *parameters: Tensor
    ) -> Tensor:
        weights, biases = parameters[:count], parameters[count:]
        products = [_dot_products(table, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        find = native_largest_sums if native else largest_sums
        maxima, positions = find(rows, products, [weight.shape[2] for weight in weights], True)
        ctx.save_for_backward(rows, positions, table, *weights)
        ctx.padding_index, ctx.native = padding_index, native
        return maxima

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, positions, table, *weights = ctx.saved_tensors
        filters, widths = [len(weight) for weight in weights], [weight.shape[2] for weight in weights]
        of_table, of_weights = torch.zeros_like(table), []
        add_up = native_table_gradients if ctx.native else table_gradients
        found = add_up(rows, positions, gradient, widths, filters, len(table))
        for weight, of_products in zip(weights, found, strict=True):
            by_place = of_products.view(weight.shape[2], len(table), len(weight))  # [width, table rows, filters]
            of_weights.append(torch.matmul(by_place.transpose(1, 2), table).permute(1, 2, 0).contiguous())
            for place, part in enumerate(by_place):
                of_table.addmm_(part, weight[:, :, place])
        if ctx.padding_index is not None:
            of_table[ctx.padding_index] = 0.0
        of_biases = [part.sum(dim=0) for part in gradient.split(filters, dim=1)]
        return None, None, of_table, None, None, *of_weights, *of_biases


def _dot_products(table: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Contribution of each character to each filter at each position, (width * rows, filters).

    The bias is added at the first position.
    """
    filters, _, width = weight.shape
    products = torch.matmul(table, weight.permute(2, 1, 0))  # [width, rows, filters]
    if bias is not None:
        products[0] += bias
    return products.view(width * len(table), filters)
