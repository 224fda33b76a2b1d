"""Products of linear layers with weights laid out as oneDNN's kernels read them.

A matrix product of few rows with a large weight is bound by the weight's layout: rearranged once and kept, the product
is up to twice as fast as `nn.Linear`. The operators are private to PyTorch: they are tried out before they are used,
and every case that they do not serve goes through the layer itself.

Packed weights are kept beside the layers, not in them: copies, pickles and checkpoints know nothing of them.
"""

import ctypes
import functools
import mmap
import weakref
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from .fingerprint_elmo import Fingerprint, can_have_fingerprint

_packs: "weakref.WeakKeyDictionary[nn.Module, _Pack]" = weakref.WeakKeyDictionary()


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


def is_plain_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """A linear layer that is nothing more: no subclass, no hook, no `forward` of its own (offloading sets one)."""
    attached = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return type(layer) is nn.Linear and "forward" not in vars(layer) and not any(attached)


class _Pack:
    """A packed weight, and what it was packed from."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.fingerprint = Fingerprint([weight])
        # A tensor made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self.weight = _reorder(weight.detach().to(dtype))
        _drop_pages(weight)


def _drop_pages(weight: Tensor) -> None:
    """Let the system take back the memory of a weight that is mapped from a checkpoint's file.

    Once packed, the plain weight is only read again to train, save or convert; its pages then come back from the file.
    Nothing is lost: pages that were changed are not the file's, and stay. Without effect on other systems than Linux,
    and on weights in ordinary memory.
    """
    advise, page_out = _madvise(), 21  # MADV_PAGEOUT, Linux 5.4
    if advise is None:
        return
    start, end = weight.data_ptr(), weight.data_ptr() + weight.numel() * weight.element_size()
    if not _is_mapped_file(start, end):
        return
    start, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end:
        advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), page_out)


@functools.cache
def _madvise() -> Callable[..., int] | None:
    try:
        return ctypes.CDLL(None).madvise
    except (OSError, AttributeError, TypeError):
        return None


def _is_mapped_file(start: int, end: int) -> bool:
    try:
        with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
            for line in maps:
                fields = line.split(maxsplit=5)
                first, last = (int(part, 16) for part in fields[0].split("-"))
                if first <= start < last:
                    return end <= last and len(fields) == 6 and fields[5].startswith("/")
    except (OSError, ValueError):
        pass
    return False


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

    A plain `nn.Linear` in float32 or bfloat16 on a processor, outside of training, compilation and autocast, has a
    [`PackedLinear`]; its weight is packed at the first call and again after every change.
    """
    if not is_plain_linear(layer):
        return layer
    weight, bias = layer.weight, layer.bias
    if _must_stay(weight) or (bias is not None and _must_stay(bias)):
        # Training: what was packed is out of date after the next step.
        release(layer)
        return layer
    if torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.enabled or _is_traced():
        return layer
    dtype = products_dtype(weight.dtype)
    if dtype is None or weight.numel() == 0 or (bias is not None and bias.dtype != weight.dtype):
        release(layer)
        return layer
    pack = _packs.get(layer)
    if pack is None or not pack.fingerprint.is_of([weight]):
        release(layer)
        pack = _packs[layer] = _Pack(weight, dtype)
    return PackedLinear(layer, pack.weight)


def products_dtype(dtype: torch.dtype) -> torch.dtype | None:
    """In which dtype a weight of `dtype` is packed; `None` where it is not."""
    if dtype not in (torch.float32, torch.bfloat16):
        return None
    return next((kind for kind in (dtype, torch.float32) if packing_works(kind)), None)


def _must_stay(weight: Tensor) -> bool:
    """Whether a weight takes part in training, or is of a kind that cannot be packed."""
    if torch.is_grad_enabled() and weight.requires_grad:
        return True
    return type(weight) not in (nn.Parameter, Tensor) or weight.device.type != "cpu" or not can_have_fingerprint(weight)


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()


def release(module: nn.Module | None, *, only_trainable: bool = False) -> None:
    """Forget the packed weights of a module and all that it holds, or of those parts that learn."""
    for part in () if module is None else module.modules():
        if not only_trainable or any(weight.requires_grad for weight in part.parameters(recurse=False)):
            _packs.pop(part, None)
