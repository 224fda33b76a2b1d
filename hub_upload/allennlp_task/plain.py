"""The plain implementation of AllenNLP's `crf_tagger` and `bcn`, based on `common.plain`.

It reads the archive's configuration, vocabulary and weights itself, and computes one sentence at a time.

Sources: allennlp-models `tagging/models/crf_tagger.py`, `classification/models/biattentive_classification_network.py`;
AllenNLP `modules/conditional_random_field`, `modules/augmented_lstm.py`, `modules/scalar_mix.py`,
`modules/seq2vec_encoders/cnn_encoder.py`, `modules/maxout.py`.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..common.plain import Array, Plain, Read, TaskAnswer, sigmoid

LARGE = -10000.0
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
}


def _vocabulary(folder: Path, namespace: str) -> dict[str, int]:
    """Words and their indices: line n, from 1, has index n."""
    text = (folder / "vocabulary" / f"{namespace}.txt").read_bytes().decode("utf-8").replace("\r\n", "\n")
    return {line.replace("@@NEWLINE@@", "\n"): n for n, line in enumerate(text.removesuffix("\n").split("\n"), 1)}


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class PlainTask:
    """A task model on top of a plain ELMo.

    Args:
        read: reads the stored tensors outside of the `Elmo`, by full name.
        read_mix: reads the tensors of the `Elmo`, by their names in it.
        config: content of `config.json`.
        folder: folder of the archive's files.
        elmo: the language model.
    """

    def __init__(self, read: Read, read_mix: Read, config: Mapping[str, Any], folder: Path, elmo: Plain) -> None:
        self.read, self.read_mix, self.folder, self.elmo = read, read_mix, folder, elmo
        self.model: Mapping[str, Any] = config["model"]
        self.indexers = config.get("dataset_reader", {}).get("token_indexers", {"tokens": {"type": "single_id"}})
        fields = self.model["text_field_embedder"]
        self.embedders = fields.get("token_embedders") or {k: v for k, v in fields.items() if isinstance(v, dict)}
        self.is_tagger = self.model["type"] == "crf_tagger"

    @property
    def words(self) -> list[str]:
        """Words of the table, after the unknown word."""
        tables = [name for name, own in self.embedders.items() if own.get("type", "embedding") == "embedding"]
        found = [list(_vocabulary(self.folder, self.indexers[name].get("namespace", "tokens")))[1:] for name in tables]
        return found[0] if found else []

    # -- words

    def answer(self, batch: Sequence[Sequence[str]]) -> list[TaskAnswer]:
        """Compute the scores of every sentence. ELMo's state carries over from call to call."""
        layers = self.elmo.embed(batch)
        settings = self.model.get("elmo") or next(s for s in self.embedders.values() if "elmo" in s.get("type", ""))
        if settings.get("do_layer_norm"):
            layers = self._normalized(layers)
        return [self._sentence(words, own) for words, own in zip(batch, layers, strict=True)]

    @staticmethod
    def _normalized(layers: list[Array]) -> list[Array]:
        """Normalize each layer by its mean and variance over all positions of all sentences, including boundaries."""
        together = np.concatenate(layers, axis=1)  # [layers, positions of the batch, 2P]
        mean = together.mean(axis=(1, 2))[:, None, None]
        deviation = np.sqrt(together.var(axis=(1, 2)) + 1e-13)[:, None, None]
        return [(own - mean) / deviation for own in layers]

    def _mix(self, layers: Array, number: int) -> Array:
        """Mix the layers of a sentence, and drop the boundaries."""
        weights = self.read_mix(f"scalar_mix_{number}.scalar_parameters")
        gamma = self.read_mix(f"scalar_mix_{number}.gamma")
        return gamma * np.tensordot(_softmax(weights), layers, axes=1)[1:-1]

    def _embedded(self, words: Sequence[str], layers: Array) -> Array:
        prefix = "text_field_embedder." if self.is_tagger else "_text_field_embedder."
        parts = []
        for name in sorted(self.embedders):
            settings, place = self.embedders[name], f"{prefix}token_embedder_{name}."
            kind = settings.get("type", "embedding")
            if kind == "elmo_token_embedder":
                parts.append(self._mix(layers, 0))
            elif kind == "embedding":
                parts.append(self._table(words, self.indexers[name], place))
            else:
                parts.append(np.stack([self._spelled(word, name, settings["encoder"], place) for word in words]))
        if self.model.get("use_input_elmo"):
            parts.append(self._mix(layers, 0))
        return np.concatenate(parts, axis=1)

    def _table(self, words: Sequence[str], indexer: Mapping[str, Any], place: str) -> Array:
        index = _vocabulary(self.folder, indexer.get("namespace", "tokens"))
        cased = [word.lower() if indexer.get("lowercase_tokens") else word for word in words]
        return self.read(f"{place}weight")[[index.get(word, 1) for word in cased]]

    def _spelled(self, word: str, name: str, encoder: Mapping[str, Any], place: str) -> Array:
        index = _vocabulary(self.folder, self.indexers[name].get("namespace", "token_characters"))
        x = self.read(f"{place}_embedding._module.weight")[[index.get(character, 1) for character in word]]
        activate = FUNCTIONS[encoder.get("conv_layer_activation") or "relu"]
        parts = []
        for number, width in enumerate(encoder.get("ngram_filter_sizes", (2, 3, 4, 5))):
            kernel = self.read(f"{place}_encoder._module.conv_layer_{number}.weight")  # (filters, size, width)
            bias = self.read(f"{place}_encoder._module.conv_layer_{number}.bias")
            windows = [
                activate(np.einsum("fdw,wd->f", kernel, x[start : start + width]) + bias)
                for start in range(len(x) - width + 1)
            ]
            parts.append(np.max(windows, axis=0) if windows else np.zeros(len(bias)))
        return np.concatenate(parts)

    # -- layers

    def _feed_forward(self, x: Array, settings: Mapping[str, Any], place: str) -> Array:
        names = settings["activations"]
        for number in range(settings["num_layers"]):
            weight, bias = (self.read(f"{place}_linear_layers.{number}.{part}") for part in ("weight", "bias"))
            x = FUNCTIONS[names if isinstance(names, str) else names[number]](x @ weight.T + bias)
        return x

    def _encoded(self, x: Array, settings: Mapping[str, Any], place: str) -> Array:
        run = self._torch_direction if settings["type"] == "lstm" else self._augmented_direction
        for layer in range(settings.get("num_layers", 1)):
            ahead = run(x, settings, place, layer, "forward")
            back = run(x[::-1], settings, place, layer, "backward")[::-1]
            x = np.concatenate([ahead, back], axis=1)
        return x

    def _torch_direction(self, x: Array, settings: Mapping[str, Any], place: str, layer: int, side: str) -> Array:
        suffix = f"l{layer}" + ("_reverse" if side == "backward" else "")
        w, u = self.read(f"{place}weight_ih_{suffix}"), self.read(f"{place}weight_hh_{suffix}")
        b = self.read(f"{place}bias_ih_{suffix}") + self.read(f"{place}bias_hh_{suffix}")
        h = c = np.zeros(u.shape[1])
        outputs = []
        for one in x:
            i, f, g, o = np.split(w @ one + u @ h + b, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        return np.array(outputs)

    def _augmented_direction(self, x: Array, settings: Mapping[str, Any], place: str, layer: int, side: str) -> Array:
        try:
            cell = f"{place}{side}_layer_{layer}.cell."
            w = self.read(f"{cell}input_linearity.weight")
        except ValueError:  # of AllenNLP 0.9
            cell = f"{place}{side}_layer_{layer}."
            w = self.read(f"{cell}input_linearity.weight")
        u, b = self.read(f"{cell}state_linearity.weight"), self.read(f"{cell}state_linearity.bias")
        size = u.shape[1]
        h = c = np.zeros(size)
        outputs = []
        for one in x:
            a = w @ one
            i, f, m, o, *r = np.split(a[: len(b)] + u @ h + b, len(b) // size)
            c = sigmoid(i) * np.tanh(m) + sigmoid(f) * c
            h = sigmoid(o) * np.tanh(c)
            if r:
                gate = sigmoid(r[0])
                h = gate * h + (1 - gate) * a[5 * size :]
            outputs.append(h)
        return np.array(outputs)

    # -- models

    def _sentence(self, words: Sequence[str], layers: Array) -> TaskAnswer:
        x = self._embedded(words, layers)
        return self._tags(x) if self.is_tagger else self._class(x, layers)

    def _class(self, x: Array, layers: Array) -> TaskAnswer:
        x = self._feed_forward(x, self.model["pre_encode_feedforward"], "_pre_encode_feedforward.")
        x = self._encoded(x, self.model["encoder"], "_encoder._module.")
        y = _softmax(x @ x.T) @ x
        z = self._encoded(np.concatenate([x, x - y, x * y], 1), self.model["integrator"], "_integrator._module.")
        if self.model.get("use_integrator_output_elmo"):
            z = np.concatenate([z, self._mix(layers, 1 if self.model.get("use_input_elmo") else 0)], axis=1)
        weight, bias = (self.read(f"_self_attentive_pooling_projection.{part}") for part in ("weight", "bias"))
        attended = _softmax((z @ weight.T + bias)[:, 0]) @ z
        pooled = np.concatenate([z.max(0), z.min(0), z.mean(0), attended])
        settings = self.model["output_layer"]
        if "pool_sizes" not in settings:
            return TaskAnswer(self._feed_forward(pooled, settings, "_output_layer."))
        for number in range(settings["num_layers"]):
            weight, bias = (self.read(f"_output_layer._linear_layers.{number}.{part}") for part in ("weight", "bias"))
            pools = settings["pool_sizes"]
            pool = pools[number] if isinstance(pools, list) else pools
            pooled = (weight @ pooled + bias).reshape(-1, pool).max(axis=1)
        return TaskAnswer(pooled)

    def _tags(self, x: Array) -> TaskAnswer:
        x = self._encoded(x, self.model["encoder"], "encoder._module.")
        if self.model.get("feedforward"):
            x = self._feed_forward(x, self.model["feedforward"], "_feedforward.")
        weight, bias = (self.read(f"tag_projection_layer._module.{part}") for part in ("weight", "bias"))
        logits = x @ weight.T + bias
        count = len(bias)
        transitions, allowed = self.read("crf.transitions"), self.read("crf._constraint_mask")
        start = end = np.zeros(count)
        if self.model.get("include_start_end_transitions", True):
            start, end = self.read("crf.start_transitions"), self.read("crf.end_transitions")
        # Forbidden transitions get this low score instead of their weight.
        inside = np.where(allowed[:count, :count] > 0, transitions, LARGE)
        first = np.where(allowed[count, :count] > 0, start, LARGE)
        last = np.where(allowed[:count, count + 1] > 0, end, LARGE)
        best, came = [first + logits[0]], []
        for one in logits[1:]:
            ahead = best[-1][:, None] + inside
            came.append(ahead.argmax(axis=0))
            best.append(ahead.max(axis=0) + one)
        tags = [int((best[-1] + last).argmax())]
        for before in reversed(came):
            tags.append(int(before[tags[-1]]))
        tags.reverse()

        def score(path: Sequence[int], first: Array, inside: Array, last: Array) -> float:
            steps = sum(inside[pair] for pair in itertools.pairwise(path))
            emitted = sum(logits[place, tag] for place, tag in enumerate(path))
            return float(first[path[0]] + emitted + steps + last[path[-1]])

        sums = start + logits[0]
        for one in logits[1:]:
            sums = np.logaddexp.reduce(sums[:, None] + transitions, axis=0) + one
        partition = float(np.logaddexp.reduce(sums + end))
        return TaskAnswer(
            logits,
            tags,
            lambda path: score(path, first, inside, last),
            lambda path: score(path, start, transitions, end) - partition,
        )
