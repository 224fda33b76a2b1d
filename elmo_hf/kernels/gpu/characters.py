"""Character convolutions on a GPU as one matmul each: `operators.character_maxima` without cuDNN.

Each batch has another number of distinct words and another longest word. cuDNN plans a convolution for each new shape,
which takes longer than to run it; a matmul is planned for none.
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
    """Maxima of convolutions over characters, or why this does not serve; arguments as of the CPU's.

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
    """The same on any device."""
    characters = functional.embedding(rows, table, padding_index)  # [n, characters, D]
    maxima = []
    for weight, bias in zip(weights, biases, strict=True):
        windows = characters.unfold(1, weight.shape[2], 1).flatten(2)  # [n, windows, D * width]
        maxima.append(functional.linear(windows, weight.flatten(1), bias).amax(dim=1))
    return torch.cat(maxima, dim=1)
