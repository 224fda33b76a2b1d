"""Products of int8 weights by integer kernels of PyTorch: the numbers that `quantized_linear.quantized_linear` defines.

CPUs differ in one thing. Those with an integer dot product (AVX-512 VNNI, AVX-VNNI, AMX) add pairs of products in 32
bits. Older ones add them in 16, which two large products overflow: there, rows that hold negative values are rounded to
7 bits and not to 8. Which of both a CPU does is found out by trying.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# As in the definition. Largest absolute integer of a weight, and of an input.
LEVELS = 127
# Of inputs of either sign where pairs of products are added in 16 bits: 2 * 127 * (64 + 64) < 2 ** 15.
REDUCED_LEVELS = 64
# Below it a row is as good as zero; the reciprocal is still finite.
SMALLEST_STEP = 1e-36


class IntegerKernel(NamedTuple):
    """An operator of PyTorch that multiplies integers.

    Attributes:
        pack: (weight int8 [out, in], scale [out]) -> whatever `product` takes.
        product: (rows [n, in], zero point, packed) -> float32 [n, out]: rows, rounded to integers, times the weight.
            None of them is below minus the zero point, which makes them unsigned for the processor.
    """

    pack: Callable[[Tensor, Tensor], Any]
    product: Callable[[Tensor, int, Any], Tensor]


def _pack_onednn(weight: Tensor, scale: Tensor) -> Any:
    zeros = torch.zeros(len(weight), dtype=torch.int64, device="cpu")
    return torch.ops.onednn.qlinear_prepack(weight, None), scale, zeros


def _product_onednn(rows: Tensor, zero_point: int, packed: Any) -> Tensor:
    unsigned = torch.add(rows, zero_point).round_().to(torch.uint8)
    return torch.ops.onednn.qlinear_pointwise(
        unsigned, 1.0, zero_point, *packed, None, 1.0, 0, torch.float32, "none", [], ""
    )


def _pack_fbgemm(weight: Tensor, scale: Tensor) -> Any:
    used = torch.backends.quantized.engine
    with warnings.catch_warnings():
        # PyTorch means to remove its quantized tensors; where they are gone, the other kernel is left.
        warnings.simplefilter("ignore")
        try:
            torch.backends.quantized.engine = "fbgemm"
            zeros = torch.zeros(len(weight), dtype=torch.int64, device="cpu")
            tensor = torch._make_per_channel_quantized_tensor(weight, scale.double(), zeros, 0)
            return torch.ops.quantized.linear_prepack(tensor, None)
        finally:
            torch.backends.quantized.engine = used


def _product_fbgemm(rows: Tensor, zero_point: int, packed: Any) -> Tensor:
    return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(rows, 1.0, zero_point, packed)


ONEDNN = IntegerKernel(_pack_onednn, _product_onednn)
FBGEMM = IntegerKernel(_pack_fbgemm, _product_fbgemm)


def zero_point_of(levels: int) -> int:
    """That of rows with negative values; even, so that halves are rounded to the same side with and without it."""
    return levels + levels % 2


def is_exact(kernel: IntegerKernel, signed_levels: int) -> bool:
    """Whether a kernel exists in this build and computes right on this processor, at the largest values of all."""
    # Wide enough for every kernel's inner loop, and of a width that none of them divides. Models are built on other
    # devices and in other dtypes by default.
    weight = torch.full((48, 131), LEVELS, dtype=torch.int8, device="cpu")
    weight[1::2] = -LEVELS
    weight[2, ::3], weight[3, 1::4] = -LEVELS, 5
    scale = torch.full((48,), 0.5, dtype=torch.float32, device="cpu")
    try:
        with torch.no_grad():
            packed = kernel.pack(weight, scale)
            for rows in (1, 5, 33):
                for levels, zero_point in ((LEVELS, 0), (signed_levels, zero_point_of(signed_levels))):
                    units = torch.full((rows, 131), float(levels), dtype=torch.float32, device="cpu")
                    units[rows // 2 :, ::2] = -levels if zero_point else 3.0
                    expected = units.double() @ weight.double().T * 0.5
                    # Each rounds to the integer it came from.
                    for shift in (0.0, 0.25, -0.25):
                        found = kernel.product((units + shift).clamp_(-levels, levels), zero_point, packed)
                        if not torch.equal(found.double(), expected):
                            return False
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    return True


@functools.cache
def integer_kernel() -> tuple[IntegerKernel | None, int]:
    """The kernel of this processor, if there is one, and the `signed_levels` that it is exact with."""
    # With an integer dot product oneDNN is the fastest; without, FBGEMM.
    for levels, kernels in ((LEVELS, (ONEDNN, FBGEMM)), (REDUCED_LEVELS, (FBGEMM, ONEDNN))):
        for kernel in kernels:
            if is_exact(kernel, levels):
                return kernel, levels
    return None, LEVELS


def signed_levels() -> int:
    """The largest absolute integer that this processor rounds rows with negative values to."""
    return integer_kernel()[1]


def _step(bound: Tensor, levels: Tensor | int) -> Tensor:
    """The step of rows whose largest absolute values are `bound`; NaN for an infinity, which no integer stands for."""
    return (bound / levels).clamp_(min=SMALLEST_STEP).add_(bound, alpha=0)


class Int8Linear:
    """A layer's product for as long as the layer is not changed: float32 [n, in] -> float32 [n, out]."""

    def __init__(self, kernel: IntegerKernel, signed: int, packed: Any, bias: Tensor | None, outputs: int) -> None:
        self._kernel, self._signed, self._packed = kernel, signed, packed
        self._bias, self._outputs = bias, outputs

    def __call__(self, rows: Tensor) -> Tensor:
        """The product and the bias."""
        product, step = self._product(rows.float())
        return product.mul_(step) if self._bias is None else torch.addcmul(self._bias, product, step, out=product)

    def plus(self, rows: Tensor, addend: Tensor) -> Tensor:
        """addend + the product, for a layer without bias: [n, in], [n, out] -> [n, out]."""
        product, step = self._product(rows.float())
        return torch.addcmul(addend, product, step, out=product)

    def _product(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """[n, in], float32 -> the product of the rows' integers [n, out], to be multiplied by their steps, [n, 1]
        or a number."""
        kernel, signed = self._kernel, self._signed
        if signed == LEVELS:
            step = _step(rows.abs().amax(dim=1, keepdim=True), LEVELS)
            return kernel.product(rows * step.reciprocal(), zero_point_of(LEVELS), self._packed), step
        if len(rows) == 1:
            # As below, in fewer steps: what surrounds a single row's product may take as long as the product.
            low, high = torch.aminmax(rows)
            levels, zero_point = (LEVELS, 0) if float(low) >= 0 else (signed, zero_point_of(signed))
            step = _step(torch.maximum(high, -low), levels)
            return kernel.product(rows * step.reciprocal(), zero_point, self._packed), step
        low = rows.amin(dim=1, keepdim=True)
        bound = torch.maximum(rows.amax(dim=1, keepdim=True), -low)
        unsigned = low >= 0
        if not bool(unsigned.any()):
            step = _step(bound, signed)
            return kernel.product(rows * step.reciprocal(), zero_point_of(signed), self._packed), step
        # Rows without negative values, usually all of them then, have their own zero point.
        step = _step(bound, torch.where(unsigned, float(LEVELS), float(signed)))
        scaled = rows * step.reciprocal()
        if bool(unsigned.all()):
            return kernel.product(scaled, 0, self._packed), step
        product = rows.new_empty(len(rows), self._outputs)
        for chosen, zero_point in ((unsigned[:, 0], 0), (~unsigned[:, 0], zero_point_of(signed))):
            product[chosen] = kernel.product(scaled[chosen], zero_point, self._packed)
        return product, step


def int8_linear(linear_map: Any) -> Int8Linear | str:
    """An int8 layer's product with its weight packed at the first call and again after every change, or why not.

    Args:
        linear_map: `operators.LinearMap`.
    """
    weight, scale = linear_map.weight, linear_map.scale
    kernel, signed = integer_kernel()
    if kernel is None:
        return "this build of PyTorch has no exact integer kernel"
    if linear_map.keep is None or scale is None:
        return "the weight is no int8 weight whose changes can be seen"
    packed = linear_map.keep("int8", lambda: kernel.pack(weight.contiguous(), scale.float()))
    return Int8Linear(kernel, signed, packed, linear_map.bias, len(weight))
