"""Linear layers in 8-bit integers, for inference on a processor.

Weights are integers of -127..127 with one float32 scale an output; the inputs of every call become integers too, with
one scale a row, so that a word's result does not depend on the words beside it. `quantized_linear` defines the
numbers. Kernels compute the same: sums of integers are exact, however they are computed. CPUs differ in how finely rows
with negative values are rounded: `signed_levels`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init

from .operators import fast_int8_linear, signed_levels

# Largest absolute integer of a weight, and of an input.
LEVELS = 127
# Below it a row is as good as zero; the reciprocal is still finite.
SMALLEST_STEP = 1e-36


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


def _zero_point(levels: int) -> int:
    """That of rows with negative values; even, so that halves are rounded to the same side with and without it."""
    return levels + levels % 2


class ElmoQuantizedLinear(nn.Module):
    """`nn.Linear` in 8-bit integers, without gradients: [..., in] -> [..., out].

    Attributes:
        quantized_weight: [out, in], int8. Not called `weight`, which a checkpoint in float would fill.
        weight_scale: [out], float32, whatever dtype the model is moved to.
        bias: [out], float32 likewise, or `None`.
    """

    # For `operators.linear_map`, which may meet a class of another copy of this file.
    is_int8_linear = True

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device: Any = None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        # Found out now by a trial, which a tracer would follow.
        self._signed_levels = signed_levels(LEVELS)
        self.quantized_weight: Tensor
        self.weight_scale: Tensor
        self.bias: Tensor | None
        weight = torch.zeros(out_features, in_features, dtype=torch.int8, device=device)
        self.register_buffer("quantized_weight", weight)
        self.register_buffer("weight_scale", torch.ones(out_features, dtype=torch.float32, device=device))
        zeros = torch.zeros(out_features, dtype=torch.float32, device=device) if bias else None
        self.register_buffer("bias", zeros)

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
        if torch.is_grad_enabled() and inputs.requires_grad:
            raise RuntimeError(
                "a model quantized to 8-bit integers has no gradients below its encoder: train the model in float and "
                "quantize it then, or freeze what stands below (freeze_bilm())"
            )
        product = None
        if inputs.device.type == "cpu" and inputs.numel():
            product = fast_int8_linear(self)
        if product is None:
            return self._plain(inputs)
        outputs = product(inputs.reshape(-1, self.in_features).float())
        return outputs.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)

    def _plain(self, inputs: Tensor) -> Tensor:
        levels = self._signed_levels if inputs.device.type == "cpu" else LEVELS
        arguments = inputs, self.quantized_weight, self.weight_scale, self.bias, levels
        if inputs.device.type == "meta" or not torch.is_autocast_enabled(inputs.device.type):
            return quantized_linear(*arguments)
        with torch.autocast(inputs.device.type, enabled=False):
            return quantized_linear(*arguments)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self._signed_levels = signed_levels(LEVELS)  # of this CPU, which may be another

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ElmoQuantizedLinear":
        scale, bias = self.weight_scale, self.bias
        super()._apply(fn, recurse)
        # `model.to(torch.bfloat16)` and `model.half()` are about activations: what dequantizes stays exact.
        if self.weight_scale.dtype != torch.float32:
            self.weight_scale = scale.to(self.weight_scale.device)
        if self.bias is not None and bias is not None and self.bias.dtype != torch.float32:
            self.bias = bias.to(self.bias.device)
        return self


def replace_linear_layers(module: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Put what `make` makes of it in the place of every `nn.Linear` inside a module, one after the other."""
    # Names, not layers: each one's weights are given up before the next is made.
    for path in [path for path, layer in module.named_modules() if type(layer) is nn.Linear]:
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, make(module.get_submodule(path)))  # type: ignore[arg-type]


def empty(layer: nn.Linear) -> ElmoQuantizedLinear:
    """A layer of the same sizes, for weights to be loaded."""
    return ElmoQuantizedLinear(layer.in_features, layer.out_features, layer.bias is not None)
