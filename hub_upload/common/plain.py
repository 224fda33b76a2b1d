"""ELMo once more, as plainly as it can be written: NumPy, float64, one word at a time, straight from the files.

This is the second opinion that `verify` asks. It shares no line with the model, the tokenizer or the conversion: its
own reading of the layouts, its own character rows, its own formulas. Speed does not matter.

Sources: bilm-tf `bilm/data.py` (characters, vocabulary), `bilm/model.py` (encoder, LSTM), TensorFlow 1 `LSTMCell`,
AllenNLP `elmo.py`, `highway.py`, `lstm_cell_with_projection.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Read = Callable[[str], Array]

# Ids of bilm-tf's character mapping, before 1 is added to every one.
SENTENCE_BEGIN, SENTENCE_END, WORD_BEGIN, WORD_END, PADDING = 256, 257, 258, 259, 260


def character_row(symbols: Sequence[int], length: int) -> list[int]:
    """Begin of word, at most `length` - 2 symbols, end of word, padding; 1 added to each."""
    row = [WORD_BEGIN, *symbols[: length - 2], WORD_END]
    return [symbol + 1 for symbol in row + [PADDING] * (length - len(row))]


def sentence_rows(words: Sequence[str], length: int) -> list[list[int]]:
    """The rows of a sentence with both boundaries around it."""
    rows = [character_row([SENTENCE_BEGIN], length)]
    for word in words:
        # The boundary symbols as words of a text mean the boundaries.
        special = {"<S>": [SENTENCE_BEGIN], "</S>": [SENTENCE_END]}.get(word)
        rows.append(character_row(special or list(word.encode("utf-8", "ignore")), length))
    rows.append(character_row([SENTENCE_END], length))
    return rows


def sigmoid(x: Array) -> Array:
    # exp of a large positive number overflows; of a negative one it does not.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def clipped(x: Array, bound: float | None) -> Array:
    return x if not bound else np.minimum(np.maximum(x, -bound), bound)


@dataclass
class Highway:
    """y = c * relu(W x + b) + (1 - c) * x, c = sigmoid(V x + d)."""

    w: Array
    b: Array
    v: Array
    d: Array

    def __call__(self, x: Array) -> Array:
        c = sigmoid(x @ self.v + self.d)
        return c * np.maximum(x @ self.w + self.b, 0) + (1 - c) * x


@dataclass
class Cell:
    """One direction of one layer; every matrix maps a row vector from its left, gates by name."""

    gates: dict[str, tuple[Array, Array, Array]]  # name -> input (P, H), recurrent (P, H), bias (H)
    projection: Array | None  # (H, P)

    def step(
        self, x: Array, h: Array, c: Array, cell_clip: float | None, projection_clip: float | None
    ) -> tuple[Array, Array]:
        a = {name: x @ w + h @ u + b for name, (w, u, b) in self.gates.items()}
        c = clipped(sigmoid(a["f"]) * c + sigmoid(a["i"]) * np.tanh(a["g"]), cell_clip)
        h = sigmoid(a["o"]) * np.tanh(c)
        return (h, c) if self.projection is None else (clipped(h @ self.projection, projection_clip), c)


@dataclass
class Characters:
    """The character encoder.

    Attributes:
        table: (characters, D), row = id.
        filters: for each width a list of (width, D) kernels stacked to (width, D, n), and the biases (n).
        length: characters of a word, boundaries included.
    """

    table: Array
    filters: list[tuple[Array, Array]]
    activation: Callable[[Array], Array]
    highways: list[Highway]
    projection: tuple[Array, Array] | None
    length: int
    lines: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, words: Sequence[str]) -> Array:
        """The vectors of a sentence with both boundaries around it, (words + 2, P)."""
        return np.stack([self.word(row) for row in sentence_rows(words, self.length)])

    def word(self, row: Sequence[int]) -> Array:
        """The vector of one word, (P,)."""
        x = self.table[list(row)]  # (characters, D)
        parts = []
        for kernel, bias in self.filters:
            width = len(kernel)
            windows = [np.tensordot(x[t : t + width], kernel, axes=2) for t in range(len(x) - width + 1)]
            parts.append(self.activation(np.max(windows, axis=0) + bias))
        y = np.concatenate(parts)
        for highway in self.highways:
            y = highway(y)
        return y if self.projection is None else y @ self.projection[0] + self.projection[1]


@dataclass
class Words:
    """A table of words, (V, P): row = line of the vocabulary file."""

    table: Array
    lines: Mapping[str, int]

    @classmethod
    def of(cls, table: Array, vocabulary: Sequence[str]) -> "Words":
        # bilm-tf strips each line, and skips a count that some files begin with.
        words = [line.strip() for line in vocabulary]
        return cls(table, {word: row for row, word in enumerate(word for word in words if word != "!!!MAXTERMID")})

    def __call__(self, words: Sequence[str]) -> Array:
        """As `Characters`; words that the vocabulary lacks are `<UNK>`."""
        unknown = self.lines["<UNK>"]
        return self.table[[self.lines.get(word, unknown) for word in ("<S>", *words, "</S>")]]


class WordVectors(Protocol):
    """What makes a sentence's words into vectors."""

    @property
    def lines(self) -> Mapping[str, int]:
        """The words that are known by their row, if any are."""

    def __call__(self, words: Sequence[str]) -> Array:
        """The vectors of a sentence with both boundaries around it, (words + 2, P)."""


@dataclass
class PlainElmo:
    """The biLM of a source file.

    Attributes:
        vectors: words of a sentence -> (words + 2, P).
        cells: [layer][direction].
        state: row -> [layer][direction] -> (h, c), carried from call to call until it is cleared.
    """

    vectors: WordVectors
    cells: list[list[Cell]]
    skip: bool
    cell_clip: float | None
    projection_clip: float | None
    state: dict[int, dict[tuple[int, int], tuple[Array, Array]]] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """Layers of each direction."""
        return len(self.cells)

    def embed(self, batch: Sequence[Sequence[str]]) -> list[Array]:
        """All layers of each sentence, (layers + 1, words + 2, 2P); row r goes on from its state."""
        return [self._sentence(words, self.state.setdefault(row, {})) for row, words in enumerate(batch)]

    def _sentence(self, words: Sequence[str], state: dict[tuple[int, int], tuple[Array, Array]]) -> Array:
        vectors = self.vectors(words)
        inputs = [vectors, vectors[::-1]]  # each in reading order
        layers = [np.concatenate([vectors, vectors], axis=1)]
        for number, pair in enumerate(self.cells):
            outputs = []
            for direction, cell in enumerate(pair):
                width = vectors.shape[1]
                size = len(cell.gates["i"][2])
                h, c = state.get((number, direction), (np.zeros(width), np.zeros(size)))
                steps = []
                for x in inputs[direction]:
                    h, c = cell.step(x, h, c, self.cell_clip, self.projection_clip)
                    # The skip connection is seen by the next layer, never by the next step.
                    steps.append(h + x if self.skip and number > 0 else h)
                state[number, direction] = h, c
                outputs.append(np.stack(steps))
            inputs = outputs
            layers.append(np.concatenate([outputs[0], outputs[1][::-1]], axis=1))
        return np.stack(layers)


def _common(options: Mapping[str, Any]) -> dict[str, Any]:
    lstm = options["lstm"]
    return {
        "skip": bool(lstm.get("use_skip_connections")),
        "cell_clip": lstm.get("cell_clip"),
        "projection_clip": lstm.get("proj_clip"),
    }


def _character_options(options: Mapping[str, Any]) -> dict[str, Any]:
    characters = options["char_cnn"]
    return {
        "activation": np.tanh if characters["activation"] == "tanh" else lambda x: np.maximum(x, 0),
        "length": characters.get("max_characters_per_token", 50),
    }


def _bilm_characters(names: set[str], read: Read, options: Mapping[str, Any], scope: str) -> Characters:
    table = read(scope + "char_embed")
    n_filters, n_highways = len(options["char_cnn"]["filters"]), options["char_cnn"].get("n_highway") or 0
    projection = None
    if scope + "CNN_proj/W_proj" in names:
        projection = read(scope + "CNN_proj/W_proj"), read(scope + "CNN_proj/b_proj")
    return Characters(
        table=np.concatenate([np.zeros((1, table.shape[1])), table]),
        filters=[(read(f"{scope}CNN/W_cnn_{i}")[0], read(f"{scope}CNN/b_cnn_{i}")) for i in range(n_filters)],
        highways=[
            Highway(
                *(read(f"{scope}CNN_high_{k}/{part}") for part in ("W_transform", "b_transform", "W_carry", "b_carry"))
            )
            for k in range(n_highways)
        ],
        projection=projection,
        **_character_options(options),
    )


def from_bilm(
    names: set[str], read: Read, options: Mapping[str, Any], vocabulary: Sequence[str] | None = None
) -> PlainElmo:
    """From bilm-tf's arrays, HDF5 or TensorFlow names alike: gates i, g, f, o; 1 is added to f when it runs.

    `vocabulary`, the lines of its file, is what a model with word input needs.
    """
    scope = "lm/" if any(name.startswith("lm/") for name in names) else ""

    def cell(direction: int, layer: int) -> Cell:
        # (kernel, bias, projection) as dumped, as dumped for one layer, as in a checkpoint, and there for one layer.
        places = [
            (f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell/", ("W_0", "B", "W_P_0")),
            (f"RNN_{direction}/RNN/LSTMCell/", ("W_0", "B", "W_P_0")),
            (
                f"lm/RNN_{direction}/rnn/multi_rnn_cell/cell_{layer}/lstm_cell/",
                ("kernel", "bias", "projection/kernel"),
            ),
            (f"lm/RNN_{direction}/rnn/lstm_cell/", ("kernel", "bias", "projection/kernel")),
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

    vectors: Characters | Words
    if vocabulary is not None and scope + "embedding" in names:
        vectors = Words.of(read(scope + "embedding"), vocabulary)
    else:
        vectors = _bilm_characters(names, read, options, scope)
    return PlainElmo(
        vectors,
        cells=[[cell(d, layer) for d in (0, 1)] for layer in range(options["lstm"].get("n_layers", 1))],
        **_common(options),
    )


def from_allennlp(names: set[str], read: Read, options: Mapping[str, Any]) -> PlainElmo:
    """From the parameters of AllenNLP's `Elmo`: gates i, f, g, o, the forget bias inside, a gate that carries."""
    words, stack = "_elmo_lstm._token_embedder.", "_elmo_lstm._elmo_lstm."
    highways = []
    for k in range(sum(name.startswith(words + "_highways.") and name.endswith(".weight") for name in names)):
        w, b = (read(f"{words}_highways._layers.{k}.{part}") for part in ("weight", "bias"))
        width = w.shape[1]
        # y = g x + (1 - g) relu(.): what carries is one minus what transforms, sigmoid(-z) = 1 - sigmoid(z).
        highways.append(Highway(w[:width].T, b[:width], -w[width:].T, -b[width:]))

    def cell(side: str, layer: int) -> Cell:
        place = f"{stack}{side}_layer_{layer}."
        w, u = (read(f"{place}{part}_linearity.weight").T for part in ("input", "state"))
        b = read(f"{place}state_linearity.bias")
        size = len(b) // 4
        gates = {}
        for number, gate in enumerate("ifgo"):
            part = slice(number * size, (number + 1) * size)
            gates[gate] = w[:, part], u[:, part], b[part]
        return Cell(gates, read(f"{place}state_projection.weight").T)

    n_filters = sum(name.startswith(words + "char_conv_") and name.endswith(".weight") for name in names)
    n_layers = sum(name.startswith(stack + "forward_layer_") and name.endswith(".bias") for name in names)
    characters = Characters(
        table=read(words + "_char_embedding_weights"),
        filters=[
            (read(f"{words}char_conv_{i}.weight").transpose(2, 1, 0), read(f"{words}char_conv_{i}.bias"))
            for i in range(n_filters)
        ],
        highways=highways,
        projection=(read(words + "_projection.weight").T, read(words + "_projection.bias")),
        **_character_options(options),
    )
    return PlainElmo(
        characters,
        cells=[[cell(side, layer) for side in ("forward", "backward")] for layer in range(n_layers)],
        **_common(options),
    )
