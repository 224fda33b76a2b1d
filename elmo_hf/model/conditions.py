"""Conditions under which a kernel may read a module's weights instead of calling the module."""

import torch
from torch import nn


def has_nothing_attached(module: nn.Module) -> bool:
    """True if calling a module runs its class's `forward` only: no hooks, no `forward` set on the instance.

    Offloading (Accelerate) sets `forward` on the instance.
    """
    attached = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return "forward" not in vars(module) and not any(attached)


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """True if a module is an instance of exactly this class, no subclass, with nothing attached."""
    return type(module) is kind and has_nothing_attached(module)


def is_in_graph() -> bool:
    """True while torch.compile is tracing for itself, not for torch.export."""
    # torch.compile of torch 2.11 replaces `is_exporting()` by True; it reads the flag behind it.
    return torch.compiler.is_compiling() and not torch.compiler._is_exporting_flag


def is_traced() -> bool:
    """True while torch.compile, the JIT tracer or a functorch transform is tracing."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
