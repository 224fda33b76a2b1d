"""Cross-lingual alignment: one matrix per layer, fitted on a dictionary, that maps vectors to another model's space.

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
    """Linear map y = W x of each layer, both directions together. It has no bias, so padding remains zero.

    Attributes:
        maps: (L, 2P, 2P), W of each of the `config.num_mixed_layers` layers, word layer first: an orthogonal matrix, or
            a multiple of one if lengths were matched. A buffer, not trained; initially the identity.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.maps: Tensor
        width = config.elmo_size
        self.register_buffer("maps", torch.empty(config.num_mixed_layers, width, width))
        self.reset_weights()

    def reset_weights(self) -> None:
        """Set every map to the identity; loaded maps are kept."""
        identity = torch.eye(self.maps.shape[-1], dtype=self.maps.dtype)
        init.copy_(self.maps, identity.expand(self.maps.shape))

    def forward(self, layers: Sequence[Tensor]) -> list[Tensor]:
        """L tensors (batch, words, 2P), word layer first -> L tensors of the same shape."""
        return [functional.linear(layer, weight) for layer, weight in zip(layers, self.maps, strict=True)]
