"""Fully connected layer over a context vector and the last word it has read."""

import torch
from torch import Tensor, nn

from .configuration_elmo import ElmoConfig
from .initialization import starting_with


class ElmoContextWordLayer(nn.Module):
    """g(h_t, w_t) = tanh(W [h_t; w_t] + b), with separate W and b for each direction.

    h_t is the direction's top output at word t, P wide, and w_t the word layer's vector of the same word. The forward
    h_t has read the words up to t, and g(h_t, w_t) predicts word t + 1; the backward h_t has read the words from t on,
    and g(h_t, w_t) predicts word t - 1. So no prediction sees its own word.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        width = config.projection_size
        self.forward_layer, self.backward_layer = (
            starting_with(nn.Linear(2 * width, width), "normal", (2 * width) ** -0.5) for _ in range(2)
        )

    def forward(
        self, forward: Tensor, backward: Tensor, forward_words: Tensor, backward_words: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Context vectors and words of both directions, all (..., P), in each direction's order -> (..., P) twice."""
        return (
            torch.tanh(self.forward_layer(torch.cat([forward, forward_words], dim=-1))),
            torch.tanh(self.backward_layer(torch.cat([backward, backward_words], dim=-1))),
        )
