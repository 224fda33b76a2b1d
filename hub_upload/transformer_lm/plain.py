"""The plain implementation of Transformer ELMo, with the character CNN of `common.plain`.

It has its own reader of the archive's names and its own formulas: one sentence, one direction, one head, one position
at a time, in float64.

Sources: AllenNLP `cnn_highway_encoder.py`, `layer_norm.py`; allennlp-models `bidirectional_lm_transformer.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from ..common.plain import Array, Characters, Read, WordVectors, allennlp_cnn, torch_linear

HEADS = 8
# Number of character ids per word in that program's indexer.
CHARACTERS = 50


def normalized(x: Array, gamma: Array, beta: Array, epsilon: float) -> Array:
    """Normalize the last axis to mean 0 and (biased) standard deviation 1; epsilon is outside of the root."""
    centered = x - x.mean(axis=-1, keepdims=True)
    return gamma * centered / (np.sqrt((centered**2).mean(axis=-1, keepdims=True)) + epsilon) + beta


@dataclass
class PlainTransformer:
    """The forward and backward stacks of an archive.

    Attributes:
        vectors: words of a sentence -> (words + 2, P).
        read: reads arrays by their names below `_contextualizer.`.
        depth: number of layers.
        state: always empty, since there is no state.
    """

    vectors: WordVectors
    read: Read
    depth: int
    epsilon: float
    state: dict[int, Any] = field(default_factory=dict)
    has_state = False

    def embed(self, batch: Sequence[Sequence[str]]) -> list[Array]:
        """All layers of each sentence, (layers + 1, words + 2, 2P)."""
        return [self._sentence(words) for words in batch]

    def _sentence(self, words: Sequence[str]) -> Array:
        vectors = self.vectors(words)
        start = vectors + self.read("_position.positional_encoding")[0, : len(vectors)]
        forward = self._stack("_forward_transformer.", start, range(len(start)))
        # The backward stack reads the reversed sentence; each word keeps its position.
        backward = self._stack("_backward_transformer.", start[::-1], range(len(start)))
        layers = [np.concatenate([vectors, vectors], axis=1)]
        layers += [np.concatenate([one, other[::-1]], axis=1) for one, other in zip(forward, backward, strict=True)]
        return np.stack(layers)

    def _stack(self, place: str, x: Array, steps: range) -> list[Array]:
        outputs = []
        for number in range(self.depth):
            layer = f"{place}layers.{number}."
            attended = self._attention(f"{layer}self_attn.linears.", self._norm(f"{layer}sublayer.0.norm", x), steps)
            x = x + attended
            inner = np.maximum(self._linear(f"{layer}feed_forward.w_1", self._norm(f"{layer}sublayer.1.norm", x)), 0)
            x = x + self._linear(f"{layer}feed_forward.w_2", inner)
            outputs.append(x)
        # The output of the top layer has an additional norm.
        outputs[-1] = self._norm(f"{place}norm", x)
        return outputs

    def _attention(self, place: str, x: Array, steps: range) -> Array:
        queries, keys, values = (np.split(self._linear(f"{place}{n}", x), HEADS, axis=1) for n in range(3))
        heads = []
        for query, key, value in zip(queries, keys, values, strict=True):
            taken = []
            for step in steps:
                scores = key[: step + 1] @ query[step] / np.sqrt(len(query[step]))
                weights = np.exp(scores - scores.max())
                taken.append(weights @ value[: step + 1] / weights.sum())
            heads.append(np.stack(taken))
        return self._linear(f"{place}3", np.concatenate(heads, axis=1))

    def _linear(self, place: str, x: Array) -> Array:
        return x @ self.read(f"{place}.weight").T + self.read(f"{place}.bias")

    def _norm(self, place: str, x: Array) -> Array:
        return normalized(x, self.read(f"{place}.gamma"), self.read(f"{place}.beta"), self.epsilon)


def _characters(read: Read, options: Mapping[str, Any], epsilon: float) -> Characters:
    """The word encoder; `options` are its section of `config.json`."""
    encoder = "_encoder._module."
    cnn = allennlp_cnn(
        read,
        "_embedding._module.weight",
        f"{encoder}char_conv_",
        f"{encoder}_highways._layers.",
        len(options["filters"]),
        options["num_highway"],
        options.get("activation", "relu"),
    )
    place = options.get("projection_location", "after_highway")
    if place is not None:
        cnn.layers.insert(0 if place == "after_cnn" else len(cnn.layers), torch_linear(read, f"{encoder}_projection"))
    if options.get("do_layer_norm"):
        gamma, beta = (read(f"{encoder}_layer_norm.{part}") for part in ("gamma", "beta"))
        cnn.layers.append(lambda x: normalized(x, gamma, beta, epsilon))
    return Characters(cnn, CHARACTERS)


def from_language_model(
    names: set[str], read: Read, options: Mapping[str, Any], layer_norm_epsilon: float
) -> PlainTransformer:
    """Build the plain model from an archive's arrays and `config.json`, which lacks the epsilon of layer norms."""
    end = "._embedding._module.weight"
    prefix = next(name for name in sorted(names) if name.endswith(end)).removesuffix(end)
    embedders = options["model"]["text_field_embedder"]["token_embedders"]
    encoder = embedders[prefix.partition("token_embedder_")[2]]["encoder"]
    return PlainTransformer(
        _characters(lambda name: read(f"{prefix}.{name}"), encoder, layer_norm_epsilon),
        cache(lambda name: read(f"_contextualizer.{name}")),
        depth=options["model"]["contextualizer"]["num_layers"],
        epsilon=layer_norm_epsilon,
    )
