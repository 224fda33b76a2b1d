"""Table lookups of [`character_tables`] in compiled C; everything is float32."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from .builder import CharacterTables, native_library

# Positions are stored as 16-bit integers.
LONGEST_ROW = 2**15 - 1


def native_serves(rows: Tensor) -> bool:
    """True if the library is available and supports words of this length."""
    return native_library() is not None and rows.shape[1] <= LONGEST_ROW


def native_largest_sums(
    rows: Tensor, products: Sequence[Tensor], widths: Sequence[int], with_positions: bool
) -> tuple[Tensor, Tensor]:
    """Compute `character_tables.largest_sums`; same arguments and results."""
    table_rows = len(products[0]) // widths[0]
    low, high = (int(bound) for bound in torch.aminmax(rows))
    if low < 0 or high >= table_rows:
        raise IndexError(f"rows hold {low if low < 0 else high}: expected ids from 0 to {table_rows - 1}")
    total = sum(product.shape[1] for product in products)
    maxima = torch.empty(len(rows), total, dtype=torch.float32, device="cpu")
    positions = torch.empty(len(rows) if with_positions else 0, total, dtype=torch.int16, device="cpu")
    _run("elmo_character_maxima", rows, [product.contiguous() for product in products], widths, maxima, positions)
    return maxima, positions


def native_table_gradients(
    rows: Tensor, positions: Tensor, gradient: Tensor, widths: Sequence[int], filters: Sequence[int], table_rows: int
) -> list[Tensor]:
    """Compute `character_tables.table_gradients`; same arguments and results."""
    gradients = [
        torch.empty(width * table_rows, count, dtype=torch.float32, device="cpu")
        for width, count in zip(widths, filters, strict=True)
    ]
    _run("elmo_character_gradients", rows, gradients, widths, gradient.contiguous(), positions)
    return gradients


def _run(
    name: str, rows: Tensor, products: Sequence[Tensor], widths: Sequence[int], maxima: Tensor, positions: Tensor
) -> None:
    library, count = native_library(), len(products)
    assert library is not None
    rows = rows.to(torch.int64).contiguous()
    integers = ctypes.c_int64 * count
    job = CharacterTables(
        words=len(rows),
        characters=rows.shape[1],
        table_rows=len(products[0]) // widths[0],
        tables=count,
        rows=rows.data_ptr(),
        widths=ctypes.cast(integers(*widths), ctypes.c_void_p),
        filters=ctypes.cast(integers(*(product.shape[1] for product in products)), ctypes.c_void_p),
        products=ctypes.cast((ctypes.c_void_p * count)(*(each.data_ptr() for each in products)), ctypes.c_void_p),
        maxima=maxima.data_ptr(),
        positions=positions.data_ptr() if len(positions) else None,
    )
    getattr(library, name)(ctypes.byref(job), torch.get_num_threads())
