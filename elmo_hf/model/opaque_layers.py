"""The layers of a model as one operator that `torch.compile` does not look into.

What a model computes depends on the data: it packs the real words of a batch and encodes each distinct word once. A
compiler would make a graph of every length, and stop at the first question about the data. For it, all of that is one
operator with known shapes; around it compile the mixes, the heads and the loss.

The operator's name has a version and is registered once for all copies of this code in a process. It finds the model by
a number and calls its `layers_of`, whichever copy that is of.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

NAMESPACE, NAME = "elmo", "layers_v1"
_INPUTS = (
    "Tensor? input_ids, Tensor? character_ids, Tensor? pos_tag_ids, Tensor? inputs_embeds, Tensor mask, "
    "Tensor? hidden, Tensor? cell, Tensor[] weights"
)


def register(model: Any) -> int:
    """Give a model its number."""
    number = next(_ops().numbers)
    _ops().models[number] = model
    return number


def opaque_layers(
    model: Any,
    number: int,
    given: dict[str, Tensor | None],
    inputs_embeds: Tensor | None,
    mask: Tensor,
    state: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the layers of a model under `torch.compile`.

    Args:
        model: with the number `number`; its `layers_of` computes, and its word layer and encoder hold the weights.
        given: `input_ids`, `character_ids` and `pos_tag_ids`, as the model's `forward` has them.
        state: to start from, hidden and cell; a Transformer has none.

    Returns:
        All layers (layers, batch, words, 2 * P); the hidden and cell that are left, empty for a Transformer.
    """
    device = mask.device.type
    autocast = str(torch.get_autocast_dtype(device)).removeprefix("torch.") if torch.is_autocast_enabled(device) else ""
    hidden, cell = (None, None) if state is None else state
    weights = [*model.embeddings.parameters(), *model.encoder.parameters()]
    layers, hidden, cell, _ = torch.ops.elmo.layers_v1(
        number,
        autocast,
        given["input_ids"],
        given["character_ids"],
        given["pos_tag_ids"],
        inputs_embeds,
        mask,
        hidden,
        cell,
        weights,
    )
    return layers, hidden, cell


def _run(number: int, autocast: str, ids: Any, inputs_embeds: Any, mask: Tensor, hidden: Any, cell: Any) -> Any:
    """Layers, hidden, cell of the model itself."""
    given = dict(zip(("input_ids", "character_ids", "pos_tag_ids"), ids, strict=True))
    dtype = getattr(torch, autocast) if autocast else None
    with torch.autocast(mask.device.type, dtype=dtype, enabled=bool(autocast)):
        return _ops().models[number].layers_of(given, inputs_embeds, mask, None if hidden is None else (hidden, cell))


def _ops() -> Any:
    """The operators of all copies of this code, and the models that they know."""
    return torch.ops.elmo


def _gradients(
    grads: list[Tensor],
    random: Tensor,
    number: int,
    autocast: str,
    ids: Any,
    floating: tuple[Tensor | None, Tensor | None, Tensor | None],
    mask: Tensor,
) -> list[Tensor]:
    """Compute the layers again and return the gradients of what is given of `inputs_embeds`, hidden and cell, and of
    the weights; zeros where there is none."""
    leaves = [None if part is None else part.detach().requires_grad_() for part in floating]
    model = _ops().models[number]
    parts = [
        part for part in (*leaves, *model.embeddings.parameters(), *model.encoder.parameters()) if part is not None
    ]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        if random.numel():
            torch.set_rng_state(random.cpu())
        found = _run(number, autocast, ids, leaves[0], mask, leaves[1], leaves[2])
    wanted = [part for part in parts if part.requires_grad]
    pairs = [(part, grad) for part, grad in zip(found, grads, strict=True) if part.requires_grad]
    outputs, of_outputs = zip(*pairs, strict=True)
    gradients = iter(torch.autograd.grad(outputs, wanted, of_outputs, allow_unused=True))
    results = []
    for part in parts:
        gradient = next(gradients) if part.requires_grad else None
        results.append(torch.zeros_like(part) if gradient is None else gradient.clone())
    return results


def _define() -> None:
    """Register the operator, if no other copy of this code has."""
    if hasattr(torch.ops.elmo, NAME):
        return
    _ops().models, _ops().numbers = WeakValueDictionary(), count(1)

    @torch.library.custom_op(
        f"{NAMESPACE}::{NAME}",
        mutates_args=(),
        schema=f"(int model, str autocast, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    )
    def layers(number, autocast, ids, characters, tags, embeds, mask, hidden, cell, weights):  # type: ignore[no-untyped-def]
        # For the backward pass to drop out the same.
        random = torch.get_rng_state() if _ops().models[number].training else torch.empty(0, dtype=torch.uint8)
        found = _run(number, autocast, (ids, characters, tags), embeds, mask, hidden, cell)
        return (*(part.clone() for part in found), random)

    @layers.register_fake
    def _(number, autocast, ids, characters, tags, embeds, mask, hidden, cell, weights):  # type: ignore[no-untyped-def]
        model = _ops().models[number]
        config, like = model.config, weights[0]
        rows, words = mask.shape
        outputs = like.new_empty(config.num_mixed_layers, rows, words, config.hidden_size)
        if not model.encoder.carries_state:
            state = like.new_empty(0), like.new_empty(0)
        else:
            kept = rows if hidden is None else torch.sym_max(rows, hidden.shape[2])
            size = (config.num_hidden_layers, 2, kept)
            wide = torch.promote_types(like.dtype, torch.float32)
            state = (
                like.new_empty(*size, config.projection_size),
                like.new_empty(*size, config.cell_size, dtype=wide),
            )
        bytes_of_state = len(torch.get_rng_state()) if model.training else 0
        return (outputs, *state, torch.empty(bytes_of_state, dtype=torch.uint8))

    @torch.library.custom_op(
        f"{NAMESPACE}::{NAME}_backward",
        mutates_args=(),
        schema=f"(Tensor[] grads, Tensor random, int model, str autocast, {_INPUTS}) -> Tensor[]",
    )
    def backward(grads, random, number, autocast, ids, characters, tags, embeds, mask, hidden, cell, weights):  # type: ignore[no-untyped-def]
        # An operator runs below autograd, whose keys are off in its thread; another thread has them on.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(
                _gradients, grads, random, number, autocast, (ids, characters, tags), (embeds, hidden, cell), mask
            ).result()

    @backward.register_fake
    def _(grads, random, number, autocast, ids, characters, tags, embeds, mask, hidden, cell, weights):  # type: ignore[no-untyped-def]
        return [torch.empty_like(part) for part in (embeds, hidden, cell, *weights) if part is not None]

    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        number, autocast, *tensors, weights = inputs
        ctx.constants = number, autocast
        ctx.given = [tensor is not None for tensor in tensors]
        ctx.save_for_backward(output[3], *(tensor for tensor in tensors if tensor is not None), *weights)

    def run_backward(ctx, *grads):  # type: ignore[no-untyped-def]
        random, *saved = ctx.saved_tensors
        saved = iter(saved)
        tensors = [next(saved) if was_given else None for was_given in ctx.given]
        weights = list(saved)
        gradients = iter(torch.ops.elmo.layers_v1_backward(list(grads[:3]), random, *ctx.constants, *tensors, weights))
        embeds, hidden, cell = (next(gradients) if tensors[place] is not None else None for place in (3, 5, 6))
        return None, None, None, None, None, embeds, None, hidden, cell, list(gradients)

    layers.register_autograd(run_backward, setup_context=setup_context)


_define()
