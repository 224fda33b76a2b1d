"""Character convolutions on a GPU as one matmul each: `operators.character_maxima` without cuDNN.

Almost every batch has a new shape (number of distinct words, longest word). cuDNN plans a convolution for each new
shape, which takes longer than running it; a matmul needs no planning.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def character_maxima(
    rows: Tensor,
    table: Tensor,
    padding_index: int | None,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    keep: Callable[[str, Callable[[], Any]], Any] | None,
) -> Tensor | str:
    """Max-pooled character convolutions, or the reason why this kernel cannot be used; arguments as of the CPU's.

    Returns:
        (n, sum of F_k), in the dtype of the matmuls.
    """
    if rows.device.type != "cuda":
        return "not on a GPU"
    return maxima_of_windows(rows, table, padding_index, weights, biases)


def maxima_of_windows(
    rows: Tensor,
    table: Tensor,
    padding_index: int | None,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
) -> Tensor:
    """Max-pooled character convolutions on any device; arguments and result as `character_maxima`."""
    characters = functional.embedding(rows, table, padding_index)  # [n, characters, D]
    maxima = []
    for weight, bias in zip(weights, biases, strict=True):
        windows = characters.unfold(1, weight.shape[2], 1).flatten(2)  # [n, windows, D * width]
        maxima.append(functional.linear(windows, weight.flatten(1), bias).amax(dim=1))
    return torch.cat(maxima, dim=1)
