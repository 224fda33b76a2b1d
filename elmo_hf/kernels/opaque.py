"""Custom operator that represents a method of a model in graphs of `torch.compile` (`elmo_hf/model/opaque_parts.py`).

It is registered once per process, under a versioned name, for all copies of this code and of the model's.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

NAMESPACE, NAME = "elmo", "part_v2"
# `places` has a 1 for each argument of the method that is a tensor, and a 0 for each `None`.
_INPUTS = "int model, str method, str autocast, int[] places, Tensor[] tensors, Tensor[] weights"


def register(model: Any) -> int:
    """Register a model and return the number by which the operator finds it."""
    models, numbers = _ops().models_v2
    number = next(numbers)
    models[number] = model
    return number


def _weights(model: Any, parts: Sequence[str]) -> list[nn.Parameter]:
    return [weight for part in map(model.get_submodule, parts) if part is not None for weight in part.parameters()]


def _ops() -> Any:
    """Namespace shared by all copies of this code; holds the operators and the registered models."""
    return torch.ops.elmo


def _method(number: int, name: str) -> tuple[Any, Any]:
    """A registered model and its method of this name."""
    model = _ops().models_v2[0][number]
    return model, getattr(type(model), name)


def _arguments(places: Sequence[int], tensors: Sequence[Tensor]) -> list[Tensor | None]:
    given = iter(tensors)
    return [next(given) if is_given else None for is_given in places]


def _run(number: int, name: str, autocast: str, places: Sequence[int], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Call the undecorated method; returns its results in their declared dtypes."""
    model, method = _method(number, name)
    given, dtype = _arguments(places, tensors), getattr(torch, autocast) if autocast else None
    with torch.autocast(tensors[0].device.type, dtype=dtype, enabled=bool(autocast)):
        found = method.__wrapped__(model, *given)
    return [part.to(dtype) for part, (_, dtype) in zip(found, method.results(model, *given), strict=True)]


def _random_state(device: torch.device) -> Tensor:
    return torch.get_rng_state() if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)


def _floating(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def _gradients(
    grads: list[Tensor], random: Tensor, number: int, name: str, autocast: str, places: list[int], tensors: list[Tensor]
) -> list[Tensor]:
    """Recompute the method and return gradients of the floating-point tensors and the trainable weights.

    Unused ones have zeros.
    """
    leaves = [part.detach().requires_grad_() if part.is_floating_point() else part for part in tensors]
    model, method = _method(number, name)
    wanted = [*_floating(leaves), *(part for part in _weights(model, method.parts) if part.requires_grad)]
    device = tensors[0].device
    kinds: dict[str, Any] = {} if device.type == "cpu" else {"device_type": device.type}
    with torch.random.fork_rng([] if device.type == "cpu" else [device], **kinds), torch.enable_grad():
        if random.numel():
            if device.type == "cpu":
                torch.set_rng_state(random)
            else:
                torch.get_device_module(device).set_rng_state(random.cpu(), device)
        found = _run(number, name, autocast, places, leaves)
    pairs = [(part, grad) for part, grad in zip(found, grads, strict=True) if part.requires_grad]
    gradients: Sequence[Tensor | None] = [None] * len(wanted)
    if pairs:
        outputs, of_outputs = zip(*pairs, strict=True)
        gradients = torch.autograd.grad(outputs, wanted, of_outputs, allow_unused=True)
    return [torch.zeros_like(part) if grad is None else grad.clone() for part, grad in zip(wanted, gradients)]


def _define() -> None:
    """Register the operator, if no other copy of this code has."""
    if hasattr(torch.ops.elmo, NAME):
        return
    _ops().models_v2 = WeakValueDictionary(), count(1)

    @torch.library.custom_op(f"{NAMESPACE}::{NAME}", mutates_args=(), schema=f"({_INPUTS}) -> Tensor[]")
    def part(number, method, autocast, places, tensors, weights):  # type: ignore[no-untyped-def]
        # Saved so that the backward pass recomputes the same dropout masks.
        is_random = _method(number, method)[0].training
        random = _random_state(tensors[0].device) if is_random else torch.empty(0, dtype=torch.uint8)
        found = _run(number, method, autocast, places, tensors)
        return [*(each.clone(memory_format=torch.contiguous_format) for each in found), random]

    @part.register_fake
    def _(number, method, autocast, places, tensors, weights):  # type: ignore[no-untyped-def]
        model, run = _method(number, method)
        device = tensors[0].device
        shapes = run.results(model, *_arguments(places, tensors))
        bytes_of_state = len(_random_state(device)) if model.training else 0
        results = [torch.empty(tuple(shape), dtype=dtype, device=device) for shape, dtype in shapes]
        return [*results, torch.empty(bytes_of_state, dtype=torch.uint8)]

    schema = f"(Tensor[] grads, Tensor random, {_INPUTS}) -> Tensor[]"

    @torch.library.custom_op(f"{NAMESPACE}::{NAME}_backward", mutates_args=(), schema=schema)
    def backward(grads, random, number, method, autocast, places, tensors, weights):  # type: ignore[no-untyped-def]
        # Inside an operator, autograd's dispatch keys are disabled in this thread, but not in another one.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(_gradients, grads, random, number, method, autocast, places, tensors).result()

    @backward.register_fake
    def _(grads, random, number, method, autocast, places, tensors, weights):  # type: ignore[no-untyped-def]
        return [torch.empty_like(each) for each in (*_floating(tensors), *weights)]

    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        *ctx.constants, tensors, weights = inputs
        ctx.count = len(tensors)
        ctx.save_for_backward(output[-1], *tensors, *weights)

    def run_backward(ctx, grads):  # type: ignore[no-untyped-def]
        random, *saved = ctx.saved_tensors
        tensors, weights = saved[: ctx.count], saved[ctx.count :]
        found = torch.ops.elmo.part_v2_backward(list(grads[:-1]), random, *ctx.constants, tensors, weights)
        gradients = iter(found)
        of_tensors = [next(gradients) if each.is_floating_point() else None for each in tensors]
        return None, None, None, None, of_tensors, list(gradients)

    part.register_autograd(run_backward, setup_context=setup_context)


_define()
