"""Layer norm of AllenNLP's language models.

Source: AllenNLP `modules/layer_norm.py`.
"""

import torch
from torch import Tensor, nn


class ElmoLayerNorm(nn.Module):
    """weight * (x - mean) / (deviation + epsilon) + bias over the last axis.

    The standard deviation is the biased one. Unlike in `nn.LayerNorm`, epsilon is added to it, not to the variance.
    Computed in float32 or wider, because an epsilon of 1e-13 is zero in float16.
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
