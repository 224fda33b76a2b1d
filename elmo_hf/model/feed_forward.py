"""Position-wise layers: feed-forward and maxout."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .configuration_elmo import ACTIVATION_NAMES
from .initialization import starting_with

_FUNCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda values: values,
    torch.relu,
    torch.tanh,
    torch.sigmoid,
    functional.elu,
    functional.gelu,
    functional.leaky_relu,
)
ACTIVATIONS = dict(zip(ACTIVATION_NAMES, _FUNCTIONS, strict=True))


class ElmoFeedForward(nn.Module):
    """Linear layers, each followed by an activation.

    Args:
        input_size: width of the inputs.
        layers: `[width, activation]` of each, with the names of `ACTIVATIONS`.
        dropout: on the input of every layer, in training.

    Attributes:
        output_size: width of the result.
    """

    def __init__(self, input_size: int, layers: Sequence[Sequence[int | str]], dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.activations = [ACTIVATIONS[str(activation)] for _, activation in layers]
        sizes = [input_size, *(int(size) for size, _ in layers)]
        self.layers = nn.ModuleList(
            starting_with(nn.Linear(size, after), "normal", size**-0.5) for size, after in itertools.pairwise(sizes)
        )
        self.output_size = sizes[-1]

    def forward(self, values: Tensor) -> Tensor:
        """(..., input_size) -> (..., output_size)."""
        for layer, activation in zip(self.layers, self.activations, strict=True):
            values = activation(layer(functional.dropout(values, self.dropout, self.training)))
        return values


class ElmoMaxout(nn.Module):
    """Maxout layer: each unit is the maximum of several linear maps (Goodfellow et al. 2013)."""

    def __init__(self, input_size: int, output_size: int, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces
        self.linear = starting_with(nn.Linear(input_size, output_size * pieces), "normal", input_size**-0.5)

    def forward(self, values: Tensor) -> Tensor:
        """(..., input_size) -> (..., output_size)."""
        return self.linear(values).unflatten(-1, (-1, self.pieces)).amax(dim=-1)
