"""Linear layers in 8-bit integers, for inference on a processor.

Weights are integers of -127..127 with one float32 scale an output; the inputs of every call become integers too, with
one scale a row, so that a word's result does not depend on the words beside it. `quantized_linear` defines the
numbers. Integer kernels of PyTorch compute the same: sums of integers are exact, however they are computed.

Processors differ in one thing. Those with an integer dot product (AVX-512 VNNI, AVX-VNNI, AMX) add pairs of products in
32 bits. Older ones add them in 16, which two large products overflow: there, rows that hold negative values are rounded
to 7 bits and not to 8. Which of both a processor does is found out by trying.
"""

import functools
import warnings
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init

# Largest absolute integer of a weight, and of an input.
LEVELS = 127
# Of inputs of either sign where pairs of products are added in 16 bits: 2 * 127 * (64 + 64) < 2 ** 15.
REDUCED_LEVELS = 64
# Below it a row is as good as zero; the reciprocal is still finite.
SMALLEST_STEP = 1e-36


def integer_weights(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest integers and the scale of every output: [out, in] -> int8 [out, in], float32 [out].

    Raises:
        ValueError: a value that is not finite.
    """
    values = weight.detach().float()
    bound = values.abs().amax(dim=1)
    if not bool(torch.isfinite(bound).all()):
        raise ValueError("the weight holds values that are not finite: no 8-bit scale fits them")
    scale = (bound / LEVELS).clamp_(min=SMALLEST_STEP)
    return (values / scale[:, None]).round_().to(torch.int8), scale


def integer_inputs(rows: Tensor, signed_levels: int) -> tuple[Tensor, Tensor]:
    """The nearest integers of every row, still as floats, and their step.

    Args:
        rows: [n, in], float32.
        signed_levels: largest absolute integer of a row with negative values; of others it is 127.

    Returns:
        units [n, in] and step [n, 1]: rows are about units * step.
    """
    unsigned = torch.zeros_like(rows[:, :1], dtype=torch.bool)
    if signed_levels != LEVELS:
        unsigned = rows.amin(dim=1, keepdim=True) >= 0
    levels = torch.where(unsigned, float(LEVELS), float(signed_levels))
    step = (rows.abs().amax(dim=1, keepdim=True) / levels).clamp(min=SMALLEST_STEP)
    # Kernels make integers unsigned before they round, which takes the last bits of what is nearly a half.
    zero_point = torch.where(unsigned, 0.0, float(_zero_point(signed_levels)))
    return (rows * step.reciprocal() + zero_point).round() - zero_point, step


def quantized_linear(
    inputs: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, signed_levels: int = LEVELS
) -> Tensor:
    """The plain product, which defines the numbers: integers, kept as floats, multiplied and scaled again.

    Args:
        inputs: [..., in], of any floating dtype.
        weight: [out, in], int8. weight_scale: [out]. bias: [out] or `None`.
        signed_levels: as in `integer_inputs`.

    Returns:
        [..., out], of the dtype of the inputs.
    """
    units, step = integer_inputs(inputs.reshape(-1, inputs.shape[-1]).float(), signed_levels)
    outputs = functional.linear(units, weight.to(units.dtype)) * weight_scale * step
    if bias is not None:
        outputs = outputs + bias
    return outputs.to(inputs.dtype).reshape(*inputs.shape[:-1], len(weight))


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
        # PyTorch means to remove its quantised tensors; where they are gone, the other kernel is left.
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


def _zero_point(levels: int) -> int:
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
                for levels, zero_point in ((LEVELS, 0), (signed_levels, _zero_point(signed_levels))):
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


@torch.compiler.assume_constant_result
def signed_levels() -> int:
    """The largest absolute integer that this processor rounds rows with negative values to."""
    return integer_kernel()[1]


class _Pack:
    """A packed weight, and which one it is of."""

    def __init__(self, kernel: IntegerKernel, weight: Tensor, scale: Tensor) -> None:
        self.tensors = weakref.ref(weight), weakref.ref(scale)
        self.versions = _version(weight), _version(scale)
        self.packed = kernel.pack(weight.contiguous(), scale)

    def is_of(self, weight: Tensor, scale: Tensor) -> bool:
        same = self.tensors[0]() is weight and self.tensors[1]() is scale
        return same and self.versions == (_version(weight), _version(scale))


def _version(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


# Beside the layers, not in them: copies, pickles and checkpoints know nothing of packed weights.
_packs: "weakref.WeakKeyDictionary[nn.Module, _Pack]" = weakref.WeakKeyDictionary()


class ElmoQuantizedLinear(nn.Module):
    """`nn.Linear` in 8-bit integers, without gradients: [..., in] -> [..., out].

    Attributes:
        quantized_weight: [out, in], int8. Not called `weight`, which a checkpoint in float would fill.
        weight_scale: [out], float32, whatever dtype the model is moved to.
        bias: [out], float32 likewise, or `None`.
    """

    # For `inference_lstm`: a call of this layer is a fast product.
    is_fast_product = True

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device: Any = None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.quantized_weight: Tensor
        self.weight_scale: Tensor
        self.bias: Tensor | None
        weight = torch.zeros(out_features, in_features, dtype=torch.int8, device=device)
        self.register_buffer("quantized_weight", weight)
        self.register_buffer("weight_scale", torch.ones(out_features, dtype=torch.float32, device=device))
        zeros = torch.zeros(out_features, dtype=torch.float32, device=device) if bias else None
        self.register_buffer("bias", zeros)

    @classmethod
    def from_linear(cls, layer: nn.Linear) -> "ElmoQuantizedLinear":
        """The layer's weights rounded to integers, one scale an output.

        Raises:
            ValueError: a value that is not finite.
        """
        made = cls(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        made.quantized_weight, made.weight_scale = integer_weights(layer.weight)
        if layer.bias is not None:
            made.bias = layer.bias.detach().float().clone()
        return made.train(layer.training)

    def reset_weights(self) -> None:
        """Zero; loaded tensors stay."""
        init.zeros_(self.quantized_weight)
        init.ones_(self.weight_scale)
        if self.bias is not None:
            init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] -> [..., out], of the dtype of the inputs.

        Raises:
            RuntimeError: gradients are asked of it.
        """
        if not self._has_kernel_for(inputs):
            return self._plain(inputs)
        product, step = self._product(inputs.reshape(-1, self.in_features).float())
        if self.bias is None:
            product.mul_(step)
        else:
            torch.addcmul(self.bias, product, step, out=product)
        return product.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)

    def plus(self, inputs: Tensor, addend: Tensor) -> Tensor:
        """addend + the product, for a layer without bias: [n, in], [n, out] -> [n, out], float32."""
        assert self.bias is None
        if not self._has_kernel_for(inputs):
            return self._plain(inputs).float() + addend
        product, step = self._product(inputs.float())
        return torch.addcmul(addend, product, step, out=product)

    def _has_kernel_for(self, inputs: Tensor) -> bool:
        if torch.is_grad_enabled() and inputs.requires_grad:
            raise RuntimeError(
                "a model quantised to 8-bit integers has no gradients below its encoder: train the model in float and "
                "quantise it then, or freeze what stands below (freeze_bilm())"
            )
        if _is_traced() or inputs.device.type != "cpu" or self.quantized_weight.device.type != "cpu":
            return False
        return inputs.numel() > 0 and integer_kernel()[0] is not None

    def _plain(self, inputs: Tensor) -> Tensor:
        levels = signed_levels() if inputs.device.type == "cpu" else LEVELS
        arguments = inputs, self.quantized_weight, self.weight_scale, self.bias, levels
        if inputs.device.type == "meta" or not torch.is_autocast_enabled(inputs.device.type):
            return quantized_linear(*arguments)
        with torch.autocast(inputs.device.type, enabled=False):
            return quantized_linear(*arguments)

    def _product(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """[n, in], float32 -> the product of the rows' integers [n, out], to be multiplied by their steps, [n, 1]
        or a number."""
        kernel, signed = integer_kernel()
        assert kernel is not None
        pack = _packs.get(self)
        if pack is None or not pack.is_of(self.quantized_weight, self.weight_scale):
            _packs[self] = pack = _Pack(kernel, self.quantized_weight, self.weight_scale)
        if signed == LEVELS:
            step = (rows.abs().amax(dim=1, keepdim=True) / LEVELS).clamp_(min=SMALLEST_STEP)
            return kernel.product(rows * step.reciprocal(), _zero_point(LEVELS), pack.packed), step
        if len(rows) == 1:
            # As below, in fewer steps: what surrounds a single row's product may take as long as the product.
            low, high = torch.aminmax(rows)
            levels, zero_point = (LEVELS, 0) if float(low) >= 0 else (signed, _zero_point(signed))
            step = (torch.maximum(high, -low) / levels).clamp_(min=SMALLEST_STEP)
            return kernel.product(rows * step.reciprocal(), zero_point, pack.packed), step
        low = rows.amin(dim=1, keepdim=True)
        bound = torch.maximum(rows.amax(dim=1, keepdim=True), -low)
        unsigned = low >= 0
        if not bool(unsigned.any()):
            step = (bound / signed).clamp_(min=SMALLEST_STEP)
            return kernel.product(rows * step.reciprocal(), _zero_point(signed), pack.packed), step
        # Rows without negative values, usually all of them then, have their own zero point.
        step = (bound / torch.where(unsigned, float(LEVELS), float(signed))).clamp_(min=SMALLEST_STEP)
        scaled = rows * step.reciprocal()
        if bool(unsigned.all()):
            return kernel.product(scaled, 0, pack.packed), step
        product = rows.new_empty(len(rows), self.out_features)
        for chosen, zero_point in ((unsigned[:, 0], 0), (~unsigned[:, 0], _zero_point(signed))):
            product[chosen] = kernel.product(scaled[chosen], zero_point, pack.packed)
        return product, step

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ElmoQuantizedLinear":
        scale, bias = self.weight_scale, self.bias
        super()._apply(fn, recurse)
        # `model.to(torch.bfloat16)` and `model.half()` are about activations: what dequantises stays exact.
        if self.weight_scale.dtype != torch.float32:
            self.weight_scale = scale.to(self.weight_scale.device)
        if self.bias is not None and bias is not None and self.bias.dtype != torch.float32:
            self.bias = bias.to(self.bias.device)
        return self


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()


def quantize_linear_layers(module: nn.Module, empty: bool = False) -> None:
    """Put an `ElmoQuantizedLinear` in the place of every `nn.Linear` inside a module, one after the other.

    Args:
        module: changed.
        empty: only the places, for weights to be loaded.
    """
    integer_kernel()  # tried out now: a tracer would follow the trial
    # Names, not layers: each one's weights are given up before the next is made.
    for path in [path for path, layer in module.named_modules() if type(layer) is nn.Linear]:
        parent, _, name = path.rpartition(".")
        _replace(module.get_submodule(parent), name, empty)


def _replace(parent: nn.Module, name: str, empty: bool) -> None:
    layer = getattr(parent, name)
    if empty:
        made = ElmoQuantizedLinear(layer.in_features, layer.out_features, layer.bias is not None)
    else:
        made = ElmoQuantizedLinear.from_linear(layer)
    setattr(parent, name, made)
