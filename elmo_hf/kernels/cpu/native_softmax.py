"""The loss of a softmax over many columns and its gradients, in compiled C.

[`pretraining.chunked_softmax`] defines it. Everything is float32.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from .builder import SoftmaxLoss, native_library

# Largest number of weight elements. The weight is packed in every call, twice for gradients, which costs memory.
LARGEST_WEIGHT = 2**25


class SoftmaxGradients(NamedTuple):
    """Results of `native_softmax_loss`. Gradients are those of sum(shares * nll), or `None` if not requested.

    Attributes:
        nll: [n]; hidden: [n, P]; weight: [columns, P]; bias: [columns]; true_logits: [n], or [0] without them.
    """

    nll: Tensor
    hidden: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    true_logits: Tensor | None = None


def native_softmax_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    true_logits: Tensor | None,
    targets: Tensor,
    shares: Tensor,
    *,
    gradients: bool,
) -> SoftmaxGradients | None:
    """Compute losses and, if requested, gradients.

    Args:
        hidden: [n, P]; weight: [columns, P]; bias: [columns]; true_logits: [n] or `None`; shares: [n]; all float32 on a
            CPU.
        targets: [n], int64: the true columns; with `true_logits`, the column to exclude for each word, or -1.

    Returns:
        `None` if there is no compiled library, or it does not support these sizes or dtypes.
    """
    library = native_library()
    given = [hidden, weight, bias, shares] + ([] if true_logits is None else [true_logits])
    if library is None or any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" for tensor in given):
        return None
    (words, width), columns = hidden.shape, len(weight)
    if not words or not columns or width % library.elmo_panel() or weight.numel() > LARGEST_WEIGHT:
        return None
    sizes = {"bias": (bias, columns), "shares": (shares, words), "targets": (targets, words)}
    sizes |= {} if true_logits is None else {"true_logits": (true_logits, words)}
    for name, (tensor, size) in sizes.items():
        if tensor.shape != (size,):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: expected ({size},)")
    if weight.shape[1] != width:
        raise ValueError(f"weight has shape {tuple(weight.shape)}: expected ({columns}, {width})")
    low, high = (int(bound) for bound in torch.aminmax(targets))
    if low < (0 if true_logits is None else -1) or high >= columns:
        raise IndexError(f"targets hold {low if low < 0 else high}: expected columns from 0 to {columns - 1}")
    given = [tensor.detach().contiguous() for tensor in given]
    targets = targets.to(torch.int64).contiguous()
    shapes = [(words,), (words, width), (columns, width), (columns,), (0 if true_logits is None else words,)]
    results = [torch.empty(shape, dtype=torch.float32, device="cpu") for shape in shapes[: 5 if gradients else 1]]
    places = [tensor.data_ptr() for tensor in results] + [None] * (5 - len(results))
    job = SoftmaxLoss(
        words=words,
        columns=columns,
        width=width,
        hidden=given[0].data_ptr(),
        weight=given[1].data_ptr(),
        bias=given[2].data_ptr(),
        true_logits=None if true_logits is None else given[4].data_ptr(),
        targets=targets.data_ptr(),
        shares=given[3].data_ptr(),
        nll=places[0],
        hidden_gradient=places[1],
        weight_gradient=places[2],
        bias_gradient=places[3],
        true_logit_gradient=places[4],
    )
    if library.elmo_softmax_loss(ctypes.byref(job), torch.get_num_threads()):
        raise MemoryError("no memory for the intermediate values of a softmax: use smaller batches or fewer samples")
    return SoftmaxGradients(*results)
