"""Matmuls with int8 weights by PyTorch's integer kernels, as `quantized_linear.quantized_linear` defines them.

CPUs differ in one respect. CPUs with an integer dot product (AVX-512 VNNI, AVX-VNNI, AMX) add pairs of products in 32
bits. Older CPUs add them in 16 bits, which two large products overflow; there, rows that hold negative values are
rounded to 7 bits instead of 8. A trial at run time tells them apart.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Largest absolute integer of a weight, and of an input, as in the definition.
LEVELS = 127
# Largest absolute integer of signed inputs if pairs of products are added in 16 bits: 2 * 127 * (64 + 64) < 2 ** 15.
REDUCED_LEVELS = 64
# Smaller rows count as zero; the reciprocal is still finite.
SMALLEST_STEP = 1e-36


class IntegerKernel(NamedTuple):
    """A PyTorch operator that multiplies integers.

    Attributes:
        pack: (weight int8 [out, in], scale [out]) -> the packed weight that `matmul` takes.
        matmul: (rows [n, in], zero point, packed) -> float32 [n, out]: rows, rounded to integers, times the weight.
            No row value is below minus the zero point, so that the CPU sees unsigned integers.
    """

    pack: Callable[[Tensor, Tensor], Any]
    matmul: Callable[[Tensor, int, Any], Tensor]


def _pack_onednn(weight: Tensor, scale: Tensor) -> Any:
    zeros = torch.zeros(len(weight), dtype=torch.int64, device="cpu")
    return torch.ops.onednn.qlinear_prepack(weight, None), scale, zeros


def _matmul_onednn(rows: Tensor, zero_point: int, packed: Any) -> Tensor:
    unsigned = torch.add(rows, zero_point).round_().to(torch.uint8)
    return torch.ops.onednn.qlinear_pointwise(
        unsigned, 1.0, zero_point, *packed, None, 1.0, 0, torch.float32, "none", [], ""
    )


def _pack_fbgemm(weight: Tensor, scale: Tensor) -> Any:
    used = torch.backends.quantized.engine
    with warnings.catch_warnings():
        # PyTorch plans to remove its quantized tensors; the other kernel remains then.
        warnings.simplefilter("ignore")
        try:
            torch.backends.quantized.engine = "fbgemm"
            zeros = torch.zeros(len(weight), dtype=torch.int64, device="cpu")
            tensor = torch._make_per_channel_quantized_tensor(weight, scale.double(), zeros, 0)
            return torch.ops.quantized.linear_prepack(tensor, None)
        finally:
            torch.backends.quantized.engine = used


def _matmul_fbgemm(rows: Tensor, zero_point: int, packed: Any) -> Tensor:
    return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(rows, 1.0, zero_point, packed)


ONEDNN = IntegerKernel(_pack_onednn, _matmul_onednn)
FBGEMM = IntegerKernel(_pack_fbgemm, _matmul_fbgemm)


def zero_point_of(levels: int) -> int:
    """Zero point of rows with negative values; even, so that halves round to the same side with and without it."""
    return levels + levels % 2


def is_exact(kernel: IntegerKernel, signed_levels: int) -> bool:
    """True if a kernel exists in this build and is exact on this CPU, even at the largest values."""
    # The width exceeds every kernel's inner loop and is a multiple of none. Dtype and device are explicit because the
    # defaults may have been changed.
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
                    # Shifted values round to the same integers.
                    for shift in (0.0, 0.25, -0.25):
                        found = kernel.matmul((units + shift).clamp_(-levels, levels), zero_point, packed)
                        if not torch.equal(found.double(), expected):
                            return False
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    return True


@functools.cache
def integer_kernel() -> tuple[IntegerKernel | None, int]:
    """The fastest exact kernel on this CPU, if any, and the `signed_levels` it is exact with."""
    # oneDNN is fastest on CPUs with an integer dot product, FBGEMM on others.
    for levels, kernels in ((LEVELS, (ONEDNN, FBGEMM)), (REDUCED_LEVELS, (FBGEMM, ONEDNN))):
        for kernel in kernels:
            if is_exact(kernel, levels):
                return kernel, levels
    return None, LEVELS


def signed_levels() -> int:
    """Largest absolute integer that rows with negative values are rounded to on this CPU."""
    return integer_kernel()[1]


def _step(bound: Tensor, levels: Tensor | int) -> Tensor:
    """The quantization step of rows whose largest absolute values are `bound`; NaN if `bound` is infinite."""
    return (bound / levels).clamp_(min=SMALLEST_STEP).add_(bound, alpha=0)


class Int8Linear:
    """An int8 linear layer, valid until the layer changes: float32 [n, in] -> float32 [n, out]."""

    def __init__(self, kernel: IntegerKernel, signed: int, packed: Any, bias: Tensor | None, outputs: int) -> None:
        self._kernel, self._signed, self._packed = kernel, signed, packed
        self._bias, self._outputs = bias, outputs

    def __call__(self, rows: Tensor) -> Tensor:
        """rows @ weight.T + bias."""
        sums, step = self._matmul(rows.float())
        return sums.mul_(step) if self._bias is None else torch.addcmul(self._bias, sums, step, out=sums)

    def plus(self, rows: Tensor, addend: Tensor) -> Tensor:
        """addend + rows @ weight.T, for a layer without bias: [n, in], [n, out] -> [n, out]."""
        sums, step = self._matmul(rows.float())
        return torch.addcmul(addend, sums, step, out=sums)

    def _matmul(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply the rounded rows: float32 [n, in] -> [n, out], and the steps to scale it by, [n, 1] or a number."""
        kernel, signed = self._kernel, self._signed
        if signed == LEVELS:
            step = _step(rows.abs().amax(dim=1, keepdim=True), LEVELS)
            return kernel.matmul(rows * step.reciprocal(), zero_point_of(LEVELS), self._packed), step
        if len(rows) == 1:
            # As below, in fewer operations: for a single row, overhead may take as long as the matmul.
            low, high = torch.aminmax(rows)
            levels, zero_point = (LEVELS, 0) if float(low) >= 0 else (signed, zero_point_of(signed))
            step = _step(torch.maximum(high, -low), levels)
            return kernel.matmul(rows * step.reciprocal(), zero_point, self._packed), step
        low = rows.amin(dim=1, keepdim=True)
        bound = torch.maximum(rows.amax(dim=1, keepdim=True), -low)
        unsigned = low >= 0
        if not bool(unsigned.any()):
            step = _step(bound, signed)
            return kernel.matmul(rows * step.reciprocal(), zero_point_of(signed), self._packed), step
        # Rows without negative values have their own zero point. Usually either all rows are such or none.
        step = _step(bound, torch.where(unsigned, float(LEVELS), float(signed)))
        scaled = rows * step.reciprocal()
        if bool(unsigned.all()):
            return kernel.matmul(scaled, 0, self._packed), step
        sums = rows.new_empty(len(rows), self._outputs)
        for chosen, zero_point in ((unsigned[:, 0], 0), (~unsigned[:, 0], zero_point_of(signed))):
            sums[chosen] = kernel.matmul(scaled[chosen], zero_point, self._packed)
        return sums, step


def int8_linear(linear_map: Any) -> Int8Linear | str:
    """An int8 layer with its weight packed, or the reason why it cannot be used.

    The weight is packed at the first call and again after every change.

    Args:
        linear_map: `operators.LinearMap`.
    """
    weight, scale = linear_map.weight, linear_map.scale
    kernel, signed = integer_kernel()
    if kernel is None:
        return "this build of PyTorch has no exact integer kernel"
    if linear_map.keep is None or scale is None:
        return "not an int8 weight, or its changes cannot be detected"
    packed = linear_map.keep("int8", lambda: kernel.pack(weight.contiguous(), scale.float()))
    return Int8Linear(kernel, signed, packed, linear_map.bias, len(weight))
