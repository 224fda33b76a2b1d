"""The plain implementation of a bilm-tf model, based on `common.plain`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.plain import Array, Cell, CharacterCnn, Characters, Highway, Linear, PlainElmo, Read, activation

HIGHWAY = ("W_transform", "b_transform", "W_carry", "b_carry")


@dataclass
class Words:
    """A word embedding, (V, P), with one row per line of the vocabulary file."""

    table: Array
    lines: Mapping[str, int]

    @classmethod
    def of(cls, table: Array, vocabulary: Sequence[str]) -> "Words":
        # bilm-tf strips each line, and skips a count at the beginning of some files.
        words = [line.strip() for line in vocabulary]
        return cls(table, {word: row for row, word in enumerate(word for word in words if word != "!!!MAXTERMID")})

    def __call__(self, words: Sequence[str]) -> Array:
        """Compute word vectors, as `Characters`; words outside of the vocabulary are `<UNK>`."""
        unknown = self.lines["<UNK>"]
        return self.table[[self.lines.get(word, unknown) for word in ("<S>", *words, "</S>")]]


def lstm_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `PlainElmo` given in `options.json`."""
    lstm = options["lstm"]
    return {
        "skip": bool(lstm.get("use_skip_connections")),
        "cell_clip": lstm.get("cell_clip"),
        "projection_clip": lstm.get("proj_clip"),
    }


def characters_per_word(options: Mapping[str, Any]) -> int:
    return options["char_cnn"].get("max_characters_per_token", 50)


def _characters(names: set[str], read: Read, options: Mapping[str, Any], scope: str) -> Characters:
    settings = options["char_cnn"]
    n_filters, n_highways = len(settings["filters"]), settings.get("n_highway") or 0
    table = read(scope + "char_embed")
    cnn = CharacterCnn(
        table=np.concatenate([np.zeros((1, table.shape[1])), table]),
        filters=[(read(f"{scope}CNN/W_cnn_{i}")[0], read(f"{scope}CNN/b_cnn_{i}")) for i in range(n_filters)],
        activation=activation(settings["activation"]),
        layers=[Highway(*(read(f"{scope}CNN_high_{k}/{part}") for part in HIGHWAY)) for k in range(n_highways)],
    )
    if scope + "CNN_proj/W_proj" in names:
        cnn.layers.append(Linear(read(scope + "CNN_proj/W_proj"), read(scope + "CNN_proj/b_proj")))
    return Characters(cnn, characters_per_word(options))


def from_bilm(
    names: set[str], read: Read, options: Mapping[str, Any], vocabulary: Sequence[str] | None = None
) -> PlainElmo:
    """Build the plain model from bilm-tf's arrays, with HDF5 or TensorFlow names.

    Gates are i, g, f, o, and 1 is added to f at run time. A model with word input needs `vocabulary`, the lines of its
    file.
    """
    scope = "lm/" if any(name.startswith("lm/") for name in names) else ""

    def cell(direction: int, layer: int) -> Cell:
        # Names of (kernel, bias, projection): in a dump, a dump of one layer, a checkpoint, a checkpoint of one layer.
        places = [
            (f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell/", ("W_0", "B", "W_P_0")),
            (f"RNN_{direction}/RNN/LSTMCell/", ("W_0", "B", "W_P_0")),
            (f"lm/RNN_{direction}/rnn/multi_rnn_cell/cell_{layer}/lstm_cell/", ("kernel", "bias", "projection/kernel")),
            (f"lm/RNN_{direction}/rnn/lstm_cell/", ("kernel", "bias", "projection/kernel")),
            # The same for models with the forward direction only.
            (f"rnn/MultiRNNCell/Cell{layer}/LSTMCell/", ("kernel", "bias", "projection/kernel")),
            ("rnn/LSTMCell/", ("kernel", "bias", "projection/kernel")),
            (f"lm/rnn/multi_rnn_cell/cell_{layer}/lstm_cell/", ("kernel", "bias", "projection/kernel")),
            ("lm/rnn/lstm_cell/", ("kernel", "bias", "projection/kernel")),
        ]
        kernel, bias, out = next(
            tuple(place + end for end in ends) for place, ends in places if place + ends[0] in names
        )
        w, b = read(kernel), read(bias)
        size, inputs = len(b) // 4, len(w) // 2
        gates = {}
        for number, gate in enumerate("igfo"):
            part = slice(number * size, (number + 1) * size)
            gates[gate] = w[:inputs, part], w[inputs:, part], b[part] + (1.0 if gate == "f" else 0.0)
        return Cell(gates, read(out) if out in names else None)

    is_one = any(name.startswith(("rnn/", "lm/rnn/")) for name in names)
    directions = (0,) if is_one else (0, 1)
    vectors: Characters | Words
    if vocabulary is not None and scope + "embedding" in names:
        vectors = Words.of(read(scope + "embedding"), vocabulary)
    else:
        vectors = _characters(names, read, options, scope)
    return PlainElmo(
        vectors,
        cells=[[cell(d, layer) for d in directions] for layer in range(options["lstm"].get("n_layers", 1))],
        **lstm_options(options),
    )
