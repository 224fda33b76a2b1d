"""Scalar mix, the learned weighted sum of a model's layers: gamma * sum_k softmax(s)_k * h_k (paper, equation 1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_elmo import ElmoConfig


def normalize_layer(layer: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    """Normalize a layer by one mean and one standard deviation over all elements of the batch.

    As in bilm-tf's `weight_layers` and AllenNLP's `ScalarMix(do_layer_norm=True)`; unlike the usual layer norm, not per
    vector.

    Args:
        layer: (batch, words, width).
        mask: (batch, words), bool: positions counted in the statistics. All positions are normalized.
        epsilon: added to the variance before the square root.

    Returns:
        (batch, words, width), in the dtype of `layer`.
    """
    # Sums over a whole batch would overflow in half precision.
    values = layer.to(torch.promote_types(layer.dtype, torch.float32))
    counted = mask.unsqueeze(-1).to(values.dtype)
    count = (counted.sum() * layer.shape[-1]).clamp(min=1)
    mean = (values * counted).sum() / count
    variance = ((values - mean).square() * counted).sum() / count
    return ((values - mean) * torch.rsqrt(variance + epsilon)).to(layer.dtype)


class ElmoScalarMix(nn.Module):
    """Scalar mix of L layers (`config.num_mixed_layers`).

    Attributes:
        weights: (L,), before the softmax. Absent for `scalar_mix="top"`.
        gamma: (1,), scale of the result.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.mode = config.scalar_mix
        self.layer_norm_epsilon = config.scalar_mix_layer_norm_epsilon
        self.normalizes = config.scalar_mix_layer_norm is not None
        self.initial_weights = config.scalar_mix_parameters or [0.0] * config.num_mixed_layers
        if self.mode == "fixed":
            # Buffers, so that no optimizer trains them. Not persistent, so that a checkpoint's mix cannot overwrite
            # the weights requested in the configuration.
            self.register_buffer("weights", torch.empty(len(self.initial_weights)), persistent=False)
            self.register_buffer("gamma", torch.empty(1), persistent=False)
        else:
            self.gamma = nn.Parameter(torch.empty(1))
            if self.mode == "learned":
                self.weights = nn.Parameter(torch.empty(len(self.initial_weights)))

    def reset_weights(self) -> None:
        """Set the configuration's initial weights and gamma = 1; loaded tensors are kept."""
        init.ones_(self.gamma)
        if self.mode != "top":
            init.copy_(self.weights, torch.tensor(self.initial_weights, dtype=self.weights.dtype))

    def normalized_weights(self) -> Tensor:
        """(L,), the weights of the layers after the softmax."""
        if self.mode == "top":
            weights = torch.zeros(len(self.initial_weights), dtype=self.gamma.dtype, device=self.gamma.device)
            weights[-1] = 1.0
            return weights
        return torch.softmax(self.weights, dim=0)

    def forward(self, layers: Sequence[Tensor], mask: Tensor, counted: Tensor) -> Tensor:
        """Mix `layers`.

        Args:
            layers: L tensors (batch, words, width), word layer first, zero at padding.
            mask: (batch, words), bool, true at words; the result is zero elsewhere.
            counted: (batch, words), bool, positions counted in the statistics that normalize a layer.

        Returns:
            (batch, words, width).

        Raises:
            ValueError: another number of layers.
        """
        if self.mode == "top":
            # bilm-tf's `use_top_only` does not normalize.
            return self.gamma * layers[-1]
        if len(layers) != len(self.weights):
            raise ValueError(
                f"{len(layers)} layers given to a mix of {len(self.weights)}: pass one for each of its weights"
            )
        if self.normalizes:
            layers = [normalize_layer(layer, counted, self.layer_norm_epsilon) for layer in layers]
        weights = self.normalized_weights()
        mixed = weights[0] * layers[0]
        if torch.is_grad_enabled():
            for weight, layer in zip(weights[1:], layers[1:], strict=True):
                mixed = mixed + weight * layer
            mixed = self.gamma * mixed
        else:
            for weight, layer in zip(weights[1:], layers[1:], strict=True):
                mixed.addcmul_(layer, weight)
            mixed.mul_(self.gamma)
        # Normalization subtracts the mean, so padding is no longer zero.
        return mixed.masked_fill(~mask.unsqueeze(-1), 0.0) if self.normalizes else mixed

    def penalty(self) -> Tensor:
        """Sum of squares of the weights before the softmax, without gamma, as in bilm-tf; zero if they are fixed."""
        return self.weights.square().sum() if self.mode == "learned" else self.gamma.new_zeros(())
