"""Precision of matmuls on the CPU."""

import functools

import torch


@functools.cache
def multiplies_bfloat16() -> bool:
    """True if this CPU has bfloat16 matmul instructions. Without them, bfloat16 is many times slower than float32."""
    try:
        return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def is_lowered_by_autocast() -> bool:
    """True if CPU autocast is enabled and should choose the dtype of matmuls.

    False if autocast asks for bfloat16 and the CPU has no bfloat16 instructions: float32 is faster there, and more
    exact.
    """
    if not torch.is_autocast_enabled("cpu"):
        return False
    return torch.get_autocast_dtype("cpu") != torch.bfloat16 or multiplies_bfloat16()
