"""In which precision a processor multiplies."""

import functools

import torch


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16: without, they take many times as long as those
    of float32."""
    try:
        return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def is_lowered_by_autocast() -> bool:
    """Whether autocast is on and products on a processor are to be left to it.

    Not where it asks for bfloat16 and the processor has no such products: in float32 they are faster, and more exact.
    """
    if not torch.is_autocast_enabled("cpu"):
        return False
    return torch.get_autocast_dtype("cpu") != torch.bfloat16 or multiplies_bfloat16()
