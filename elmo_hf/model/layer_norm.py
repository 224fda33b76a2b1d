"""The layer norm of AllenNLP's language models.

Source: AllenNLP `modules/layer_norm.py`.
"""

import torch
from torch import Tensor, nn


class ElmoLayerNorm(nn.Module):
    """weight * (x - mean) / (deviation + epsilon) + bias over the last axis.

    The deviation is the biased one, and epsilon is added to it and not to the variance, unlike in `nn.LayerNorm`.
    Computed in float32 or wider, where an epsilon of 1e-13 is more than nothing.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., width) -> (..., width), of the inputs' dtype."""
        wide = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        deviation, mean = torch.std_mean(wide, dim=-1, correction=0, keepdim=True)
        return (self.weight * (wide - mean) / (deviation + self.epsilon) + self.bias).to(inputs.dtype)
