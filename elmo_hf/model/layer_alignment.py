"""Vectors of one language in the space of another: one matrix a layer, fitted on a dictionary and kept with the model.

Source: Schuster et al. 2019, *Cross-Lingual Alignment of Contextual Word Embeddings*, section 4; AllenNLP 0.9
`ElmoTokenEmbedderMultiLang`, which has one such matrix for a fixed mix.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init

from .configuration_elmo import ElmoConfig


class ElmoAlignment(nn.Module):
    """Maps every layer of the representations, both directions together, by a matrix of its own.

    The original multiplies each vector by W, y = W x, without a constant: zeros at padding stay zeros.

    Attributes:
        maps: (L, 2P, 2P), W of each of the `config.num_mixed_layers` layers, word layer first: orthogonal, or a
            multiple of it where lengths were matched. A buffer: no training changes it. The identity at first.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.maps: Tensor
        width = config.hidden_size
        self.register_buffer("maps", torch.empty(config.num_mixed_layers, width, width))
        self.reset_weights()

    def reset_weights(self) -> None:
        """Make every map the identity; loaded ones stay."""
        identity = torch.eye(self.maps.shape[-1], dtype=self.maps.dtype)
        init.copy_(self.maps, identity.expand(self.maps.shape))

    def forward(self, layers: Sequence[Tensor]) -> list[Tensor]:
        """L tensors (batch, words, 2P), word layer first, to as many of the same shape."""
        return [functional.linear(layer, weight) for layer, weight in zip(layers, self.maps, strict=True)]
