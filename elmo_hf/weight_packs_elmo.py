"""Weights of linear layers, rearranged once for a kernel and kept for as long as they do not change.

They are kept beside the layers, not in them: copies, pickles and checkpoints know nothing of them. A layer has at most
one; which kernels it serves is the caller's matter.
"""

import ctypes
import functools
import mmap
import sys
import weakref
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from .fingerprint_elmo import Fingerprint, can_have_fingerprint
from .precision_elmo import is_lowered_by_autocast

# Of madvise(2), on Linux.
HUGE_PAGES, PAGE_OUT = 14, 21
HUGE_PAGE = 2 << 20


class _Pack:
    """What was made of a weight, how, and of which."""

    def __init__(self, weight: Tensor, layout: str, pack: Callable[[Tensor], Any]) -> None:
        self.layout = layout
        self.fingerprint = Fingerprint([weight])
        # A tensor made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self.packed = pack(weight.detach())
        _drop_pages(weight)


_packs: "weakref.WeakKeyDictionary[nn.Module, _Pack]" = weakref.WeakKeyDictionary()


def packed_weight(layer: nn.Module, weight: Tensor, layout: str, pack: Callable[[Tensor], Any]) -> Any:
    """What `pack` makes of a layer's weight, made at the first call and again after every change.

    Args:
        layer: whose weight it is.
        weight: [out, in], one that can have a fingerprint.
        layout: the name of what `pack` makes.
        pack: weight [out, in] -> anything.
    """
    kept = _packs.get(layer)
    if kept is None or kept.layout != layout or not kept.fingerprint.is_of([weight]):
        release(layer)
        kept = _packs[layer] = _Pack(weight, layout, pack)
    return kept.packed


def release(module: nn.Module | None, *, only_trainable: bool = False) -> None:
    """Forget the packed weights of a module and all that it holds, or of those parts that learn."""
    for part in () if module is None else module.modules():
        if not only_trainable or any(weight.requires_grad for weight in part.parameters(recurse=False)):
            _packs.pop(part, None)


def is_plain_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """A linear layer that is nothing more: no subclass, no hook, no `forward` of its own (offloading sets one)."""
    return type(layer) is nn.Linear and has_nothing_attached(layer)


def has_nothing_attached(layer: nn.Module) -> bool:
    """Whether a call of a layer is a call of its class's `forward` and nothing more."""
    attached = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return "forward" not in vars(layer) and not any(attached)


def may_pack(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer is plain, on a processor, used outside of training, tracing and autocast that lowers
    its products, and not empty.

    In training the weights are out of date after the next step: what was packed is released.
    """
    if not is_plain_linear(layer):
        return False
    weight, bias = layer.weight, layer.bias
    if _must_stay(weight) or (bias is not None and _must_stay(bias)):
        release(layer)
        return False
    if is_lowered_by_autocast() or is_traced():
        return False
    if weight.numel() == 0 or (bias is not None and bias.dtype != weight.dtype):
        release(layer)
        return False
    return True


def _must_stay(weight: Tensor) -> bool:
    """Whether a weight takes part in training, or is of a kind that cannot be packed."""
    if torch.is_grad_enabled() and weight.requires_grad:
        return True
    return type(weight) not in (nn.Parameter, Tensor) or weight.device.type != "cpu" or not can_have_fingerprint(weight)


def is_traced() -> bool:
    """Whether somebody watches which operations run: a compiler, a tracer, a transformation of functions."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()


# Memory


def in_huge_pages(count: int, dtype: torch.dtype) -> Tensor:
    """An empty tensor [count] at the start of a cache line, in huge pages where it is large and the system has them.

    What is read from one end to the other for every word is read faster so: a processor fetches ahead only within a
    page.
    """
    size = dtype.itemsize
    alignment = HUGE_PAGE if count * size >= 2 * HUGE_PAGE else 64
    memory = torch.empty(count + alignment // size, dtype=dtype, device="cpu")
    start = -memory.data_ptr() % alignment // size
    tensor = memory[start : start + count]
    if alignment == HUGE_PAGE:
        _advise(tensor.data_ptr(), tensor.data_ptr() + count * size, HUGE_PAGES)
    return tensor


def _drop_pages(weight: Tensor) -> None:
    """Let the system take back the memory of a weight that is mapped from a checkpoint's file.

    Once packed, the plain weight is only read again to train, save or convert; its pages then come back from the file.
    Nothing is lost: pages that were changed are not the file's, and stay. Without effect on other systems than Linux,
    and on weights in ordinary memory.
    """
    start, end = weight.data_ptr(), weight.data_ptr() + weight.numel() * weight.element_size()
    if _is_mapped_file(start, end):
        _advise(start, end, PAGE_OUT)


def _advise(start: int, end: int, advice: int) -> None:
    """`madvise` for the whole pages between two addresses."""
    advise = _madvise()
    start, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if advise is not None and start < end:
        advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)


@functools.cache
def _madvise() -> Callable[..., int] | None:
    try:
        return ctypes.CDLL(None).madvise if sys.platform == "linux" else None
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
