"""Linear layers with weights prepacked for oneDNN.

The time of a matmul of few rows with a large weight depends on the weight's layout. With the weight packed once and
kept, it is up to twice as fast as `nn.Linear`. PyTorch's operators for this are private, so they are tested before use;
unsupported cases run through the layer itself.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..precision import is_lowered_by_autocast
from .memory_pages import drop_pages


@functools.cache
def packing_works(dtype: torch.dtype) -> bool:
    """True if oneDNN multiplies packed weights in `dtype` with this build and CPU, and gives correct results."""
    if not torch.backends.mkldnn.is_available():
        return False
    # Small integers are exact in every dtype. Dtype and device are explicit because the defaults may have been changed.
    new: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    inputs, weight = torch.arange(12, **new).view(3, 4), torch.arange(20, **new).view(5, 4) - 9
    try:
        with torch.no_grad():
            packed = _reorder(weight.to(dtype))
            output = _linear(inputs.to(dtype), packed, None)
            sums = _linear_sum(inputs.to(dtype), output, packed)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    expected = inputs @ weight.T
    return all(
        torch.allclose(found.float(), value, rtol=0.01) for found, value in ((output, expected), (sums, 2 * expected))
    )


def _reorder(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def _linear(inputs: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")


def _linear_sum(inputs: Tensor, addend: Tensor, packed: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.binary(inputs, addend, packed, None, "add")


class PackedLinear:
    """`nn.Linear` with a packed weight; valid until the layer changes.

    Attributes:
        dtype: dtype of the matmul; inputs are converted to it. It is the weight's, or float32 for a bfloat16 weight on
            a CPU that cannot multiply bfloat16.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, packed: Tensor) -> None:
        self._weight, self._given_bias, self._packed = weight, bias, packed
        self.dtype = packed.dtype
        self._bias = None if bias is None else bias.detach().to(packed.dtype)

    def __call__(self, inputs: Tensor) -> Tensor:
        """[n, in] -> [n, out], in `dtype`."""
        if torch.is_grad_enabled() and inputs.requires_grad:
            return functional.linear(inputs, self._weight, self._given_bias)
        if len(inputs) == 1 and self._weight.dtype == torch.bfloat16:
            return self._vector_matmul(inputs, self._bias)
        return _linear(inputs.to(self.dtype), self._packed, self._bias)

    def plus(self, inputs: Tensor, addend: Tensor) -> Tensor:
        """addend + inputs @ weight.T for a layer without bias: [n, in], [n, out] -> [n, out], in `dtype`."""
        if len(inputs) == 1 and self._weight.dtype == torch.bfloat16:
            return self._vector_matmul(inputs, addend)
        return _linear_sum(inputs.to(self.dtype), addend, self._packed)

    def _vector_matmul(self, inputs: Tensor, addend: Tensor | None) -> Tensor:
        """Multiply one row by the bfloat16 weight. It is memory-bound, and `torch.mv` reads bfloat16 on any CPU."""
        weight = self._weight.detach()
        output = torch.mv(weight, inputs.view(-1).to(weight.dtype)).to(self.dtype).view(1, -1)
        return output if addend is None else output.add_(addend)


def packed_linear(linear_map: Any) -> PackedLinear | str:
    """A plain layer with its weight packed, or the reason why packing cannot be used.

    The weight is packed at the first call and again after every change. Supports float32 and bfloat16 on a CPU, outside
    of training and of autocast to a lower dtype.

    Args:
        linear_map: `operators.LinearMap`.
    """
    weight, bias = linear_map.weight, linear_map.bias
    if linear_map.keep is None:
        return "the weight is trained, or its changes cannot be detected"
    if bias is not None and bias.dtype != weight.dtype:
        return "weight and bias differ in dtype"
    if is_lowered_by_autocast():
        return "autocast to a lower dtype"
    if not torch.backends.mkldnn.enabled:
        return "oneDNN is switched off"
    dtype = matmul_dtype(weight.dtype)
    if dtype is None:
        return f"no packed matmul in {weight.dtype}"

    def pack() -> Tensor:
        packed = _reorder(weight.detach().to(dtype))
        drop_pages(weight)
        return packed

    return PackedLinear(weight, bias, linear_map.keep("oneDNN", pack))


def matmul_dtype(dtype: torch.dtype) -> torch.dtype | None:
    """Dtype in which a weight of `dtype` is packed; `None` if it cannot be packed."""
    if dtype not in (torch.float32, torch.bfloat16):
        return None
    return next((kind for kind in (dtype, torch.float32) if packing_works(kind)), None)
