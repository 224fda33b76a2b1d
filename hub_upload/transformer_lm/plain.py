"""Transformer ELMo once more, as plainly as it can be written; see `plain`.

Its own reading of the archive's names, its own encoder of characters, its own formulas: one sentence, one direction,
one head, one position at a time, in float64.

Sources: AllenNLP `cnn_highway_encoder.py`, `layer_norm.py`; allennlp-models `bidirectional_lm_transformer.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..common.plain import Array, Read, sentence_rows, sigmoid

HEADS = 8
# The indexer of that program makes so many ids a word.
CHARACTERS = 50


@dataclass
class CharacterEncoder:
    """The vector of a word from its characters.

    Attributes:
        read: the arrays, by their names below `_text_field_embedder.token_embedder_*.`.
        options: `encoder` of that part of `config.json`.
        epsilon: of the layer norm.
    """

    read: Read
    options: Mapping[str, Any]
    epsilon: float
    lines: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, words: Sequence[str]) -> Array:
        """The vectors of a sentence with both boundaries around it, (words + 2, P)."""
        return np.stack([self.word(row) for row in sentence_rows(words, CHARACTERS)])

    def word(self, row: Sequence[int]) -> Array:
        x = self.read("_embedding._module.weight")[list(row)]  # (characters, D)
        maxima = []
        for i, (width, _) in enumerate(self.options["filters"]):
            kernel, bias = (self.part(f"char_conv_{i}.{name}") for name in ("weight", "bias"))
            values = [np.einsum("ndw,wd->n", kernel, x[t : t + width]) + bias for t in range(len(x) - width + 1)]
            maxima.append(np.max(values, axis=0))
        y = np.concatenate(maxima)
        y = np.tanh(y) if self.options.get("activation", "relu") == "tanh" else np.maximum(y, 0)
        place = self.options.get("projection_location", "after_highway")
        if place == "after_cnn":
            y = self.project(y)
        for k in range(self.options["num_highway"]):
            z = self.part(f"_highways._layers.{k}.weight") @ y + self.part(f"_highways._layers.{k}.bias")
            new, carried = np.split(z, 2)
            y = sigmoid(carried) * y + (1 - sigmoid(carried)) * np.maximum(new, 0)
        if place == "after_highway":
            y = self.project(y)
        if self.options.get("do_layer_norm"):
            y = normalised(y, self.part("_layer_norm.gamma"), self.part("_layer_norm.beta"), self.epsilon)
        return y

    def project(self, y: Array) -> Array:
        return self.part("_projection.weight") @ y + self.part("_projection.bias")

    def part(self, name: str) -> Array:
        return self.read(f"_encoder._module.{name}")


def normalised(x: Array, gamma: Array, beta: Array, epsilon: float) -> Array:
    """The last axis to mean 0 and deviation 1, the biased one; epsilon is outside of the root."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return gamma * centred / (np.sqrt((centred**2).mean(axis=-1, keepdims=True)) + epsilon) + beta


@dataclass
class PlainTransformer:
    """The two stacks of an archive.

    Attributes:
        vectors: words of a sentence -> (words + 2, P).
        read: the arrays, by their names below `_contextualizer.`.
        depth: layers.
        state: always empty, for nothing is carried.
    """

    vectors: CharacterEncoder
    read: Read
    depth: int
    epsilon: float
    state: dict[int, Any] = field(default_factory=dict)

    def embed(self, batch: Sequence[Sequence[str]]) -> list[Array]:
        """All layers of each sentence, (layers + 1, words + 2, 2P)."""
        return [self._sentence(words) for words in batch]

    def _sentence(self, words: Sequence[str]) -> Array:
        vectors = self.vectors(words)
        start = vectors + self.read("_position.positional_encoding")[0, : len(vectors)]
        forward = self._stack("_forward_transformer.", start, range(len(start)))
        # Backwards is forwards over the reversed sentence, each word with its own position.
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
        # Only what leaves the stack at its top is normalised once more.
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
        return normalised(x, self.read(f"{place}.gamma"), self.read(f"{place}.beta"), self.epsilon)


def from_language_model(
    names: set[str], read: Read, options: Mapping[str, Any], layer_norm_epsilon: float
) -> PlainTransformer:
    """From the arrays of an archive and its `config.json`; no archive holds the epsilon of its layer norms."""
    end = "._embedding._module.weight"
    prefix = next(name for name in sorted(names) if name.endswith(end)).removesuffix(end)
    arrays: dict[str, Array] = {}

    def below(place: str) -> Read:
        def cached(name: str) -> Array:
            if place + name not in arrays:
                arrays[place + name] = read(place + name)
            return arrays[place + name]

        return cached

    embedders = options["model"]["text_field_embedder"]["token_embedders"]
    encoder = embedders[prefix.partition("token_embedder_")[2]]["encoder"]
    return PlainTransformer(
        CharacterEncoder(below(prefix + "."), encoder, layer_norm_epsilon),
        below("_contextualizer."),
        depth=options["model"]["contextualizer"]["num_layers"],
        epsilon=layer_norm_epsilon,
    )
