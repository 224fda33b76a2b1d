"""Linear layers in 8-bit integers, for inference on a CPU.

Weights are integers of -127..127 with one float32 scale per output. Inputs are quantized in every call, with one scale
per row, so that a word's result does not depend on the other words of the batch. `quantized_linear` is the reference.
Kernels return the same numbers, because sums of integers are exact in any order. The rounding of rows with negative
values depends on the CPU (`signed_levels`).
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
# Lower bound of a row's scale, so that its reciprocal is finite also for a row of zeros.
SMALLEST_STEP = 1e-36


def integer_inputs(rows: Tensor, signed_levels: int) -> tuple[Tensor, Tensor]:
    """Quantize each row to integers, stored as floats.

    Args:
        rows: [n, in], float32.
        signed_levels: largest absolute integer of a row with negative values; 127 for other rows.

    Returns:
        units [n, in] and step [n, 1], float32: rows are about units * step.
    """
    unsigned = torch.zeros_like(rows[:, :1], dtype=torch.bool)
    if signed_levels != LEVELS:
        unsigned = rows.amin(dim=1, keepdim=True) >= 0
    levels = torch.where(unsigned, float(LEVELS), float(signed_levels))
    step = (rows.abs().amax(dim=1, keepdim=True) / levels).clamp(min=SMALLEST_STEP)
    # Kernels add the zero point before they round, which can change the result for values near a half. It is even, so
    # that halves are rounded as without it.
    zero_point = torch.where(unsigned, 0.0, float(signed_levels + signed_levels % 2))
    return (rows * step.reciprocal() + zero_point).round() - zero_point, step


def quantized_linear(
    inputs: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, signed_levels: int = LEVELS
) -> Tensor:
    """Reference of the int8 linear layer: quantized inputs times integer weights, computed in float32, then rescaled.

    Args:
        inputs: [..., in], any floating dtype.
        weight: [out, in], int8.
        weight_scale: [out], float32.
        bias: [out], float32, or `None`.
        signed_levels: as in `integer_inputs`.

    Returns:
        [..., out], in the dtype of the inputs.
    """
    units, step = integer_inputs(inputs.reshape(-1, inputs.shape[-1]).float(), signed_levels)
    outputs = functional.linear(units, weight.to(units.dtype)) * weight_scale * step
    if bias is not None:
        outputs = outputs + bias
    return outputs.to(inputs.dtype).reshape(*inputs.shape[:-1], len(weight))


class ElmoQuantizedLinear(nn.Module):
    """`nn.Linear` in 8-bit integers, without gradients: [..., in] -> [..., out].

    Attributes:
        quantized_weight: [out, in], int8. Not named `weight`, which a floating-point checkpoint would fill.
        weight_scale: [out], always float32, whatever dtype the model is cast to.
        bias: [out], always float32, or `None`.
    """

    # Recognized by `operators.linear_map`, which may be of another copy of this code.
    is_int8_linear = True

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device: Any = None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        # Determined here, because it runs a trial kernel, which a tracer would record.
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
        """Set weight and bias to zero, scales to one; loaded tensors are kept."""
        init.zeros_(self.quantized_weight)
        init.ones_(self.weight_scale)
        if self.bias is not None:
            init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the dtype of the inputs.

        Raises:
            RuntimeError: the inputs require gradients.
        """
        if torch.is_grad_enabled() and inputs.requires_grad:
            raise RuntimeError(
                "a linear layer quantized to 8-bit integers has no gradient: train the model in floating point and "
                "quantize it afterwards, or freeze the layers below (freeze_bilm())"
            )
        kernel = None
        if inputs.device.type == "cpu" and inputs.numel():
            kernel = fast_int8_linear(self)
        if kernel is None:
            return self._plain(inputs)
        outputs = kernel(inputs.reshape(-1, self.in_features).float())
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
        self._signed_levels = signed_levels(LEVELS)  # this may be another CPU

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ElmoQuantizedLinear":
        scale, bias = self.weight_scale, self.bias
        super()._apply(fn, recurse)
        # `model.half()` and the like cast activations only: scales and biases remain exact.
        if self.weight_scale.dtype != torch.float32:
            self.weight_scale = scale.to(self.weight_scale.device)
        if self.bias is not None and bias is not None and self.bias.dtype != torch.float32:
            self.bias = bias.to(self.bias.device)
        return self


def replace_linear_layers(module: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Replace every `nn.Linear` inside a module by `make(layer)`, one after the other."""
    # A list of names, not of layers, so that each layer's memory is freed before the next is made.
    for path in [path for path, layer in module.named_modules() if type(layer) is nn.Linear]:
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, make(module.get_submodule(path)))  # type: ignore[arg-type]


def empty(layer: nn.Linear) -> ElmoQuantizedLinear:
    """An uninitialized int8 layer of the same sizes, to be filled from a checkpoint."""
    return ElmoQuantizedLinear(layer.in_features, layer.out_features, layer.bias is not None)
