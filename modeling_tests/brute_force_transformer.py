"""Transformer ELMo spelled out in NumPy, float64: one sentence, one word, one head at a time, in the order of the text.

Written from the formulas of the paper and of AllenNLP, sharing no code with the package.
"""

import numpy as np

from .brute_force import BruteForceElmo


class BruteForceTransformer(BruteForceElmo):
    """Computes layers and mixes of an `ElmoModel` with a Transformer from its tensors and configuration."""

    def position(self, place):
        """Sinusoid (P,) of a position, sine and cosine alternating."""
        width = self.config.projection_size
        angles = [place / 10000 ** ((column // 2 * 2) / width) for column in range(width)]
        return np.array([np.cos(angle) if column % 2 else np.sin(angle) for column, angle in enumerate(angles)])

    def linear(self, x, name):
        return self.weights[f"{name}.weight"] @ x + self.weights[f"{name}.bias"]

    def attention(self, sequence, name, visible):
        """Attention output of each position over the positions for which `visible(position, other)` is true."""
        heads = self.config.num_attention_heads
        query, key, value = (
            [self.linear(x, f"{name}.{part}_proj").reshape(heads, -1) for x in sequence] for part in "qkv"
        )
        outputs = []
        for i in range(len(sequence)):
            seen = [j for j in range(len(sequence)) if visible(i, j)]
            parts = []
            for head in range(heads):
                scores = np.array([query[i][head] @ key[j][head] for j in seen]) / np.sqrt(len(query[i][head]))
                shares = np.exp(scores - scores.max())
                shares /= shares.sum()
                parts.append(sum(share * value[j][head] for share, j in zip(shares, seen, strict=True)))
            outputs.append(self.linear(np.concatenate(parts), f"{name}.o_proj"))
        return outputs

    def block(self, sequence, name, visible):
        normed = [self.layer_norm(x, f"{name}.attention_norm") for x in sequence]
        sequence = [x + y for x, y in zip(sequence, self.attention(normed, f"{name}.attention", visible), strict=True)]
        outputs = []
        for x in sequence:
            inner = self.linear(self.layer_norm(x, f"{name}.feed_forward_norm"), f"{name}.feed_forward.up_proj")
            outputs.append(x + self.linear(np.maximum(inner, 0), f"{name}.feed_forward.down_proj"))
        return outputs

    def sentence(self, rows, state=None):
        """Map a sentence's inputs of `word` to layers [N + 1, words, 2P]."""
        words = [self.word(row) for row in rows]
        start = [word + self.position(place) for place, word in enumerate(words)]
        runs = {"forward": start, "backward": start}
        layers = [[np.concatenate([word, word]) for word in words]]
        top = self.config.num_hidden_layers - 1
        for layer in range(top + 1):
            shown = {}
            for name, sequence in runs.items():
                sees = {"forward": lambda i, j: j <= i, "backward": lambda i, j: j >= i}[name]
                visible = sees if self.config.causal else lambda i, j: True
                runs[name] = self.block(sequence, f"encoder.layers.{layer}.{name}_block", visible)
                shown[name] = runs[name]
                if layer == top:
                    shown[name] = [self.layer_norm(x, f"encoder.{name}_norm") for x in runs[name]]
            pairs = zip(shown["forward"], shown["backward"], strict=True)
            layers.append([np.concatenate(pair) for pair in pairs])
        return np.array(layers), None
