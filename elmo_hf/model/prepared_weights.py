"""Weights of linear layers, rearranged once for a kernel and kept for as long as they do not change.

They are kept beside the layers, not in them: copies, pickles and checkpoints know nothing of them. A layer has at most
one; which kernels it serves is the caller's matter.
"""

import weakref
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from elmo_hf.kernels.cpu.memory_pages import drop_pages
from elmo_hf.kernels.precision import is_lowered_by_autocast

from .fingerprint import Fingerprint, can_have_fingerprint


class _Pack:
    """What was made of a weight, how, and of which."""

    def __init__(self, weight: Tensor, layout: str, pack: Callable[[Tensor], Any]) -> None:
        self.layout = layout
        self.fingerprint = Fingerprint([weight])
        # A tensor made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self.packed = pack(weight.detach())
        drop_pages(weight)


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
    """Whether a layer is plain, on a processor, not empty, and used outside of training, tracing and lowering autocast.

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
