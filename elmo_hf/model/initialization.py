"""Initial weights as in the original, attached to each layer.

Transformers calls `_init_weights` on the module that owns a tensor, and a plain `nn.Linear` does not know its role in
the model. So each layer of a biLM is marked with its distribution when it is constructed, and `initialize` reads the
mark. Values are those of bilm-tf's training code, except for word embeddings (see `word_embeddings`).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from transformers import initialization as init

Module = TypeVar("Module", bound=nn.Module)


class InitialValues(NamedTuple):
    """Initial weight, uniform in [-scale, scale] or normal with standard deviation `scale`, and a constant bias."""

    distribution: Literal["uniform", "normal"]
    scale: float
    bias: float = 0.0

    def draw(self, weight: Tensor) -> None:
        """Fill a weight, or some of its rows, in place; a loaded tensor is kept."""
        if self.distribution == "uniform":
            init.uniform_(weight, -self.scale, self.scale)
        else:
            init.normal_(weight, std=self.scale)


def starting_with(
    module: Module, distribution: Literal["uniform", "normal"], scale: float, bias: float = 0.0
) -> Module:
    """Mark `module` with its initial values and return it."""
    module.initial_values = InitialValues(distribution, scale, bias)  # type: ignore[assignment]
    return module


def glorot_bound(inputs: int, outputs: int) -> float:
    """Bound of Glorot-uniform initialization (Glorot and Bengio 2010), TensorFlow's default, for a matrix's sizes."""
    return (6 / (inputs + outputs)) ** 0.5


def initialize(module: nn.Module) -> bool:
    """Set the initial values of a marked module; loaded tensors are kept. Returns false for a module without a mark."""
    values = getattr(module, "initial_values", None)
    if not isinstance(values, InitialValues):
        return False
    weight, bias = module.get_parameter("weight"), getattr(module, "bias", None)
    values.draw(weight)
    padding = getattr(module, "padding_idx", None)
    # A row is a view without the loaded tensor's mark, so `init` would overwrite it.
    if padding is not None and not getattr(weight, "_is_hf_initialized", False):
        init.zeros_(weight[padding])
    if bias is not None:
        init.constant_(bias, values.bias)
    return True


@torch.no_grad()
def resized(module: nn.Module, size: int, words: Sequence[int] | None) -> nn.Parameter:
    """Resize a module's weight to `size` rows.

    New rows are the mean of the rows `words`, or are drawn from the module's initial distribution if there are none. A
    module without a mark (a client's own) gets normal rows with the root mean square of the old ones.

    Returns:
        The new weight (size, width); `module` is not changed.
    """
    old, values = module.get_parameter("weight"), getattr(module, "initial_values", None)
    weight = old.new_empty(size, old.shape[1])
    kept = min(size, len(old))
    weight[:kept] = old[:kept]
    if words:
        weight[kept:] = old[list(words)].mean(0)
    else:
        if not isinstance(values, InitialValues):
            values = InitialValues("normal", old.square().mean().sqrt().item())
        values.draw(weight[kept:])
    return nn.Parameter(weight, requires_grad=old.requires_grad)
