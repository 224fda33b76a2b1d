"""ELMo spelled out in NumPy, float64: one sentence, one word, one step at a time.

Written from the formulas of the paper and the originals, sharing no code with the package: what the models' tests
compare with. It reads a model's weights by name and nothing else of it.
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def clip(x, bound):
    return x if bound is None else np.minimum(np.maximum(x, -bound), bound)


class BruteForceElmo:
    """Computes layers and mixes of an `ElmoModel` from its tensors and configuration."""

    def __init__(self, model):
        self.config = model.config
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.weights = {name: value.detach().double().numpy() for name, value in tensors.items()}

    def word(self, characters):
        """Map the character ids of a word, or its id in a word model, to its vector, (P,).

        For joined inputs, a pair or triple of those of id, characters and POS tag that the model reads.
        """
        config, weights = self.config, self.weights
        if config.joins_words:
            return self.joined_word(list(characters))
        if config.word_embedding_size:
            x = weights["embeddings.word_embeddings.weight"][int(characters)]
            if config.word_embedding_size != config.projection_size:
                x = weights["embeddings.projection.weight"] @ x + weights["embeddings.projection.bias"]
            return x
        return self.word_from_characters(characters, "embeddings")

    def joined_word(self, given):
        config, weights, parts = self.config, self.weights, []
        if config.word_embedding_size:
            parts.append(weights["embeddings.words.word_embeddings.weight"][int(given.pop(0))])
        if config.character_filters:
            parts.append(self.word_from_characters(given.pop(0), "embeddings.characters"))
        if config.num_pos_tags:
            parts.append(weights["embeddings.pos_tags.pos_tag_embeddings.weight"][int(given.pop(0))])
        assert not given
        return weights["embeddings.projection.weight"] @ np.concatenate(parts) + weights["embeddings.projection.bias"]

    def word_from_characters(self, characters, place):
        config, weights = self.config, self.weights
        embedded = weights[f"{place}.character_embeddings.weight"][np.asarray(characters)]  # [length, size]
        filters = []
        for index, (width, _) in enumerate(config.character_filters):
            kernel = weights[f"{place}.convolutions.{index}.weight"]  # [filters, size, width]
            bias = weights[f"{place}.convolutions.{index}.bias"]
            windows = [embedded[start : start + width] for start in range(len(embedded) - width + 1)]
            values = np.array([[(kernel[f].T * window).sum() for f in range(len(kernel))] for window in windows]) + bias
            top = values.max(axis=0)
            filters.append(np.maximum(top, 0) if config.character_activation == "relu" else np.tanh(top))
        x = np.concatenate(filters)
        if config.character_projection and config.character_projection_location == "after_cnn":
            x = weights[f"{place}.projection.weight"] @ x + weights[f"{place}.projection.bias"]
        for index in range(config.num_highway_layers):
            name = f"{place}.highways.{index}"
            gate = sigmoid(weights[f"{name}.gate.weight"] @ x + weights[f"{name}.gate.bias"])
            other = np.maximum(weights[f"{name}.nonlinear.weight"] @ x + weights[f"{name}.nonlinear.bias"], 0)
            x = gate * other + (1 - gate) * x
        if config.character_projection and config.character_projection_location == "after_highway":
            x = weights[f"{place}.projection.weight"] @ x + weights[f"{place}.projection.bias"]
        return self.layer_norm(x, f"{place}.layer_norm") if config.character_layer_norm else x

    def layer_norm(self, x, name):
        deviation = np.sqrt(((x - x.mean()) ** 2).mean())
        scaled = (x - x.mean()) / (deviation + self.config.layer_norm_epsilon)
        return self.weights[f"{name}.weight"] * scaled + self.weights[f"{name}.bias"]

    def direction(self, inputs, layer, name, hidden, cell):
        """Map vectors in reading order to outputs in reading order, final hidden state and cell."""
        config, outputs = self.config, []
        prefix = f"encoder.layers.{layer}.{name}_lstm"
        for x in inputs:
            gates = (
                self.weights[f"{prefix}.input_proj.weight"] @ x
                + self.weights[f"{prefix}.hidden_proj.weight"] @ hidden
                + self.weights[f"{prefix}.input_proj.bias"]
            )
            i, f, g, o = gates.reshape(4, -1)
            cell = clip(sigmoid(f + config.forget_bias) * cell + sigmoid(i) * np.tanh(g), config.cell_clip)
            hidden = sigmoid(o) * np.tanh(cell)
            if config.cell_projection:
                hidden = clip(self.weights[f"{prefix}.output_proj.weight"] @ hidden, config.projection_clip)
            outputs.append(hidden + x if config.use_skip_connections and layer > 0 else hidden)
        return outputs, hidden, cell

    def sentence(self, rows, state=None):
        """Map a sentence's inputs of `word` to ([N + 1, words, 2P], final state {(layer, direction): (h, c)})."""
        config = self.config
        words = [self.word(row) for row in rows]
        state = dict(state or {})
        layers = [np.array([np.concatenate([word, word]) for word in words])]
        runs = {"forward": words, "backward": words[::-1]}
        for layer in range(config.num_hidden_layers):
            for name in runs:
                zero = (np.zeros(config.projection_size), np.zeros(config.cell_size))
                hidden, cell = state.get((layer, name), zero)
                runs[name], hidden, cell = self.direction(runs[name], layer, name, hidden, cell)
                state[layer, name] = hidden, cell
            pairs = zip(runs["forward"], runs["backward"][::-1], strict=True)
            layers.append(np.array([np.concatenate(pair) for pair in pairs]))
        if config.context_word_layer:
            for name, read in (("forward", words), ("backward", words[::-1])):
                weight, bias = (
                    self.weights[f"encoder.context_word_layer.{name}_layer.{part}"] for part in ("weight", "bias")
                )
                runs[name] = [
                    np.tanh(weight @ np.concatenate([h, w]) + bias) for h, w in zip(runs[name], read, strict=True)
                ]
            pairs = zip(runs["forward"], runs["backward"][::-1], strict=True)
            layers.append(np.array([np.concatenate(pair) for pair in pairs]))
        return np.array(layers), state

    def mix(self, layers, index=0):
        """Mix layers [N + 1, words, 2P] to [words, 2P], without layer norm."""
        if self.config.scalar_mix == "top":
            return self.weights[f"scalar_mixes.{index}.gamma"] * layers[-1]
        shares = np.exp(self.weights[f"scalar_mixes.{index}.weights"])
        shares /= shares.sum()
        return self.weights[f"scalar_mixes.{index}.gamma"] * np.tensordot(shares, layers, axes=1)
