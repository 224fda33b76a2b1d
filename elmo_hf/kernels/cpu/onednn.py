"""Products of linear layers with weights laid out as oneDNN's kernels read them.

A matrix product of few rows with a large weight is bound by the weight's layout: rearranged once and kept, the product
is up to twice as fast as `nn.Linear`. The operators are private to PyTorch: they are tried out before they are used,
and every case that they do not serve goes through the layer itself.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from elmo_hf.model.prepared_weights import may_pack, packed_weight, release


@functools.cache
def packing_works(dtype: torch.dtype) -> bool:
    """Whether this build and processor have oneDNN's product of packed weights in `dtype`, and it is right."""
    if not torch.backends.mkldnn.is_available():
        return False
    # Small integers: exact in every dtype. The defaults for new tensors may be another dtype and device.
    new: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    inputs, weight = torch.arange(12, **new).view(3, 4), torch.arange(20, **new).view(5, 4) - 9
    try:
        with torch.no_grad():
            packed = _reorder(weight.to(dtype))
            product = _linear(inputs.to(dtype), packed, None)
            sums = _linear_sum(inputs.to(dtype), product, packed)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    expected = inputs @ weight.T
    return all(
        torch.allclose(found.float(), value, rtol=0.01) for found, value in ((product, expected), (sums, 2 * expected))
    )


def _reorder(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def _linear(inputs: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")


def _linear_sum(inputs: Tensor, addend: Tensor, packed: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.binary(inputs, addend, packed, None, "add")


class PackedLinear:
    """`nn.Linear` as a product with a packed weight, for as long as the layer is not changed: ask `product_of` anew.

    Attributes:
        dtype: of the products; inputs are converted to it. That of the weight, or float32 for a bfloat16 weight on a
            processor that cannot multiply bfloat16.
    """

    def __init__(self, layer: nn.Linear, packed: Tensor) -> None:
        self._layer, self._packed = layer, packed
        self.dtype = packed.dtype
        self._bias = None if layer.bias is None else layer.bias.detach().to(packed.dtype)

    def __call__(self, inputs: Tensor) -> Tensor:
        """[n, in] -> [n, out], in `dtype`."""
        if torch.is_grad_enabled() and inputs.requires_grad:
            return functional.linear(inputs, self._layer.weight, self._layer.bias)
        if len(inputs) == 1 and self._layer.weight.dtype == torch.bfloat16:
            return self._vector_product(inputs, self._bias)
        return _linear(inputs.to(self.dtype), self._packed, self._bias)

    def plus(self, inputs: Tensor, addend: Tensor) -> Tensor:
        """addend + inputs @ weight.T for a layer without bias: [n, in], [n, out] -> [n, out], in `dtype`."""
        if len(inputs) == 1 and self._layer.weight.dtype == torch.bfloat16:
            return self._vector_product(inputs, addend)
        return _linear_sum(inputs.to(self.dtype), addend, self._packed)

    def _vector_product(self, inputs: Tensor, addend: Tensor | None) -> Tensor:
        """One row is bound by the memory that the weight takes, and torch's own product reads bfloat16 on any
        processor."""
        weight = self._layer.weight.detach()
        product = torch.mv(weight, inputs.view(-1).to(weight.dtype)).to(self.dtype).view(1, -1)
        return product if addend is None else product.add_(addend)


def product_of(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """A layer's fast product where there is one, else the layer itself.

    A plain `nn.Linear` in float32 or bfloat16 on a processor, outside of training, compilation and autocast that lowers
    it, has a [`PackedLinear`]; its weight is packed at the first call and again after every change.
    """
    if not may_pack(layer) or not torch.backends.mkldnn.enabled:
        return layer
    dtype = products_dtype(layer.weight.dtype)
    if dtype is None:
        release(layer)
        return layer
    return PackedLinear(layer, packed_weight(layer, layer.weight, "oneDNN", lambda weight: _reorder(weight.to(dtype))))


def products_dtype(dtype: torch.dtype) -> torch.dtype | None:
    """In which dtype a weight of `dtype` is packed; `None` where it is not."""
    if dtype not in (torch.float32, torch.bfloat16):
        return None
    return next((kind for kind in (dtype, torch.float32) if packing_works(kind)), None)
