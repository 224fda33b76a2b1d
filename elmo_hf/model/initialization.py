"""The original's initial values, attached to the layers they belong to.

Transformers calls `_init_weights` on the module that owns a tensor, and a plain `nn.Linear` does not know what part it
plays. So every layer of a biLM is marked when it is built, and `initialize` reads the mark. Values are those of
bilm-tf's training code but for tables of words (see `word_embeddings`).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from transformers import initialization as init

Module = TypeVar("Module", bound=nn.Module)


class InitialValues(NamedTuple):
    """Distribution of a layer's weight, uniform in [-scale, scale] or normal of deviation `scale`; constant bias."""

    distribution: Literal["uniform", "normal"]
    scale: float
    bias: float = 0.0

    def draw(self, weight: Tensor) -> None:
        """Fill a weight, or some of its rows; a tensor that was loaded stays."""
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
    """TensorFlow's default, uniform in [-bound, bound], for a matrix of these sides (Glorot and Bengio 2010)."""
    return (6 / (inputs + outputs)) ** 0.5


def initialize(module: nn.Module) -> bool:
    """Set the initial values of a marked module; tensors that were loaded stay. False for a module without mark."""
    values = getattr(module, "initial_values", None)
    if not isinstance(values, InitialValues):
        return False
    weight, bias = module.get_parameter("weight"), getattr(module, "bias", None)
    values.draw(weight)
    padding = getattr(module, "padding_idx", None)
    # A row of a loaded tensor does not know that it was loaded.
    if padding is not None and not getattr(weight, "_is_hf_initialized", False):
        init.zeros_(weight[padding])
    if bias is not None:
        init.constant_(bias, values.bias)
    return True


@torch.no_grad()
def resized(module: nn.Module, size: int, words: Sequence[int] | None) -> nn.Parameter:
    """The first `size` rows of a module's weight, and new ones: the mean of those of `words`, or as at first.

    A module without mark, a client's own, has new rows as large as its old ones.
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
