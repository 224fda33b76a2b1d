"""The learned mix of a model's layers: gamma * sum_k softmax(s)_k * h_k (paper, equation 1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_elmo import ElmoConfig


def normalize_layer(layer: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    """Subtract the mean of a whole layer and divide by its standard deviation, both over all counted elements.

    One scalar mean and one scalar variance for the batch, as in bilm-tf's `weight_layers` and AllenNLP's
    `ScalarMix(do_layer_norm=True)`; not the layer norm of each vector.

    Args:
        layer: (batch, words, width).
        mask: (batch, words), bool: the positions that count for the statistics. All positions are normalized.
        epsilon: added to the variance, inside the root.
    """
    # Sums over a whole batch: half precision could not even count that far.
    values = layer.to(torch.promote_types(layer.dtype, torch.float32))
    counted = mask.unsqueeze(-1).to(values.dtype)
    count = (counted.sum() * layer.shape[-1]).clamp(min=1)
    mean = (values * counted).sum() / count
    variance = ((values - mean).square() * counted).sum() / count
    return ((values - mean) * torch.rsqrt(variance + epsilon)).to(layer.dtype)


class ElmoScalarMix(nn.Module):
    """One mix of the L layers of the representations (`config.num_mixed_layers`).

    Attributes:
        weights: (L,), raw: the softmax is taken when mixing. Absent for `scalar_mix="top"`.
        gamma: (1,), the scale of the result.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.mode = config.scalar_mix
        self.layer_norm_epsilon = config.scalar_mix_layer_norm_epsilon
        self.normalizes = config.scalar_mix_layer_norm is not None
        self.initial_weights = config.scalar_mix_parameters or [0.0] * config.num_mixed_layers
        if self.mode == "fixed":
            # Buffers, invisible to every optimizer. The configuration is their only source: a checkpoint's own mix
            # must not replace the layers that a user asks for when loading it.
            self.register_buffer("weights", torch.empty(len(self.initial_weights)), persistent=False)
            self.register_buffer("gamma", torch.empty(1), persistent=False)
        else:
            self.gamma = nn.Parameter(torch.empty(1))
            if self.mode == "learned":
                self.weights = nn.Parameter(torch.empty(len(self.initial_weights)))

    def reset_weights(self) -> None:
        """Set the configuration's initial weights, gamma = 1; tensors that were loaded stay."""
        init.ones_(self.gamma)
        if self.mode != "top":
            init.copy_(self.weights, torch.tensor(self.initial_weights, dtype=self.weights.dtype))

    def normalized_weights(self) -> Tensor:
        """(L,) the shares of the layers; they sum to one."""
        if self.mode == "top":
            shares = torch.zeros(len(self.initial_weights), dtype=self.gamma.dtype, device=self.gamma.device)
            shares[-1] = 1.0
            return shares
        return torch.softmax(self.weights, dim=0)

    def forward(self, layers: Sequence[Tensor], mask: Tensor, counted: Tensor) -> Tensor:
        """Mix `layers`.

        Args:
            layers: L tensors (batch, words, width), word layer first.
            mask: (batch, words), bool, real positions; the result is zero elsewhere.
            counted: (batch, words), bool, the positions whose statistics normalize a layer.

        Returns:
            (batch, words, width).
        """
        if self.mode == "top":
            # bilm-tf's `use_top_only` neither weighs nor normalizes.
            return self.gamma * layers[-1]
        if len(layers) != len(self.weights):
            raise ValueError(f"{len(layers)} layers given to a mix of {len(self.weights)}")
        if self.normalizes:
            layers = [normalize_layer(layer, counted, self.layer_norm_epsilon) for layer in layers]
        shares = self.normalized_weights()
        mixed = shares[0] * layers[0]
        if torch.is_grad_enabled():
            for share, layer in zip(shares[1:], layers[1:], strict=True):
                mixed = mixed + share * layer
            mixed = self.gamma * mixed
        else:
            for share, layer in zip(shares[1:], layers[1:], strict=True):
                mixed.addcmul_(layer, share)
            mixed.mul_(self.gamma)
        # Normalizing moves padding away from zero.
        return mixed.masked_fill(~mask.unsqueeze(-1), 0.0) if self.normalizes else mixed

    def penalty(self) -> Tensor:
        """sum(s ** 2) over the raw weights (gamma is free, as in bilm-tf); zero if none is learned."""
        return self.weights.square().sum() if self.mode == "learned" else self.gamma.new_zeros(())
