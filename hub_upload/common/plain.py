"""An independent, plain implementation of ELMo: NumPy, float64, one word at a time, directly from the original files.

`verify` compares models with it. It shares no code with the model, the tokenizer or the conversion, and has its own
readers of all layouts, its own character rows and its own formulas. Speed does not matter.

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

# Ids of bilm-tf's character mapping, before 1 is added to each.
SENTENCE_BEGIN, SENTENCE_END, WORD_BEGIN, WORD_END, PADDING = 256, 257, 258, 259, 260


def character_row(symbols: Sequence[int], length: int) -> list[int]:
    """Character ids of a word: begin of word, at most `length` - 2 symbols, end of word, padding; 1 added to each."""
    row = [WORD_BEGIN, *symbols[: length - 2], WORD_END]
    return [symbol + 1 for symbol in row + [PADDING] * (length - len(row))]


def sentence_rows(words: Sequence[str], length: int) -> list[list[int]]:
    """Character rows of a sentence, with both boundaries."""
    rows = [character_row([SENTENCE_BEGIN], length)]
    for word in words:
        # Boundary symbols in a text stand for the boundaries.
        special = {"<S>": [SENTENCE_BEGIN], "</S>": [SENTENCE_END]}.get(word)
        rows.append(character_row(special or list(word.encode("utf-8", "ignore")), length))
    rows.append(character_row([SENTENCE_END], length))
    return rows


def sigmoid(x: Array) -> Array:
    # exp overflows for large positive numbers, but not for negative ones.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def activation(name: str) -> Callable[[Array], Array]:
    """The activation tanh or relu, by its name in options."""
    return np.tanh if name == "tanh" else lambda x: np.maximum(x, 0)


def clipped(x: Array, bound: float | None) -> Array:
    return x if not bound else np.minimum(np.maximum(x, -bound), bound)


@dataclass(frozen=True)
class TaskAnswer:
    """Result of a task model for a sentence.

    Attributes:
        logits: (words, tags) before a CRF, or (classes).
        tags: best sequence of a tagger; `None` for a classifier.
        score: function that scores a tag sequence as in decoding.
        log_likelihood: function that returns a sequence's natural log-probability as in training.
    """

    logits: Array
    tags: list[int] | None = None
    score: Callable[[Sequence[int]], float] = lambda tags: 0.0
    log_likelihood: Callable[[Sequence[int]], float] = lambda tags: 0.0


class PlainTask(Protocol):
    """A plain implementation of a task model on top of its language model."""

    @property
    def words(self) -> list[str]:
        """Words of its own embedding, if it has one."""

    def answer(self, batch: Sequence[Sequence[str]]) -> list[TaskAnswer]:
        """Compute the result for each sentence. The language model's state carries over from call to call."""


@dataclass
class Highway:
    """y = c * relu(W x + b) + (1 - c) * x, c = sigmoid(V x + d)."""

    w: Array
    b: Array
    v: Array
    d: Array

    @classmethod
    def carrying(cls, w: Array, b: Array) -> "Highway":
        """Make a highway from AllenNLP's (2F, F) and (2F): y = g x + (1 - g) relu(.), sigmoid(-z) = 1 - sigmoid(z)."""
        size = w.shape[1]
        return cls(w[:size].T, b[:size], -w[size:].T, -b[size:])

    def __call__(self, x: Array) -> Array:
        c = sigmoid(x @ self.v + self.d)
        return c * np.maximum(x @ self.w + self.b, 0) + (1 - c) * x


@dataclass
class Cell:
    """One direction of one layer. Matrices are multiplied by row vectors from the left; gates are named."""

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
class Linear:
    """y = x W + b."""

    w: Array
    b: Array

    def __call__(self, x: Array) -> Array:
        return x @ self.w + self.b


@dataclass
class CharacterCnn:
    """Character CNN that maps a word's character ids to a vector.

    Attributes:
        table: character embedding, (characters, D), one row per id.
        filters: for each width the kernels (width, D, n) and biases (n).
        activation: applied to the maximum of each filter.
        layers: following layers (highways, projection, norm) in order.
    """

    table: Array
    filters: list[tuple[Array, Array]]
    activation: Callable[[Array], Array]
    layers: list[Callable[[Array], Array]]

    def __call__(self, row: Sequence[int]) -> Array:
        x = self.table[list(row)]  # (characters, D)
        parts = []
        for kernel, bias in self.filters:
            width = len(kernel)
            windows = [np.tensordot(x[t : t + width], kernel, axes=2) for t in range(len(x) - width + 1)]
            parts.append(self.activation(np.max(windows, axis=0) + bias))
        y = np.concatenate(parts)
        for layer in self.layers:
            y = layer(y)
        return y


@dataclass
class Characters:
    """Character encoder over bytes.

    Attributes:
        cnn: the character CNN.
        length: number of characters per word, including boundaries.
        lines: empty, since words have no rows.
    """

    cnn: CharacterCnn
    length: int
    lines: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, words: Sequence[str]) -> Array:
        """Vectors of a sentence with both boundaries, (words + 2, P)."""
        return np.stack([self.cnn(row) for row in sentence_rows(words, self.length)])


class WordVectors(Protocol):
    """Encoder of a sentence's words."""

    @property
    def lines(self) -> Mapping[str, int]:
        """Words with rows of their own, if any, and these rows."""

    def __call__(self, words: Sequence[str]) -> Array:
        """Vectors of a sentence with both boundaries, (words + 2, P)."""


class Plain(Protocol):
    """A plain implementation, as used by `verify`.

    Attributes:
        vectors: the word layer.
        state: state of each row, carried from call to call until cleared; always empty without `has_state`.
    """

    vectors: WordVectors
    state: dict[int, Any]
    has_state: bool

    @property
    def depth(self) -> int:
        """Number of layers per direction."""

    def embed(self, batch: Sequence[Sequence[str]]) -> list[Array]:
        """All layers of each sentence, (layers + 1, words + 2, 2P)."""


@dataclass
class PlainElmo:
    """The biLM of a source file.

    Attributes:
        vectors: words of a sentence -> (words + 2, P).
        cells: [layer][direction]; the backward direction may be missing.
        state: row -> [layer][direction] -> (h, c), carried from call to call until cleared.
    """

    vectors: WordVectors
    cells: list[list[Cell]]
    skip: bool
    cell_clip: float | None
    projection_clip: float | None
    state: dict[int, dict[tuple[int, int], tuple[Array, Array]]] = field(default_factory=dict)
    has_state = True

    @property
    def depth(self) -> int:
        """Number of layers per direction."""
        return len(self.cells)

    def embed(self, batch: Sequence[Sequence[str]]) -> list[Array]:
        """All layers of each sentence, (layers + 1, words + 2, 2P); row r continues from its state."""
        return [self._sentence(words, self.state.setdefault(row, {})) for row, words in enumerate(batch)]

    def _sentence(self, words: Sequence[str], state: dict[tuple[int, int], tuple[Array, Array]]) -> Array:
        vectors = self.vectors(words)
        inputs = [vectors, vectors[::-1]]  # each in reading order
        layers = [np.concatenate([vectors] * len(self.cells[0]), axis=1)]
        for number, cells in enumerate(self.cells):
            outputs = []
            for direction, cell in enumerate(cells):
                width = vectors.shape[1]
                size = len(cell.gates["i"][2])
                h, c = state.get((number, direction), (np.zeros(width), np.zeros(size)))
                steps = []
                for x in inputs[direction]:
                    h, c = cell.step(x, h, c, self.cell_clip, self.projection_clip)
                    # The skip connection feeds the next layer, not the next step.
                    steps.append(h + x if self.skip and number > 0 else h)
                state[number, direction] = h, c
                outputs.append(np.stack(steps))
            inputs = outputs
            layers.append(np.concatenate([outputs[0], *(backward[::-1] for backward in outputs[1:])], axis=1))
        return np.stack(layers)


def torch_linear(read: Read, name: str) -> Linear:
    """Read a linear layer in PyTorch's layout, (out, in)."""
    return Linear(read(f"{name}.weight").T, read(f"{name}.bias"))


def allennlp_cnn(
    read: Read, table: str, convolution: str, highway: str, filters: int, highways: int, maximum: str
) -> CharacterCnn:
    """Read a character CNN in the layout of PyTorch and AllenNLP, with convolutions (n, D, width).

    `convolution` and `highway` are names without number; `maximum` is the activation after max pooling.
    """
    kernels = [(read(f"{convolution}{i}.weight"), read(f"{convolution}{i}.bias")) for i in range(filters)]
    return CharacterCnn(
        read(table),
        [(kernel.transpose(2, 1, 0), bias) for kernel, bias in kernels],
        activation(maximum),
        [Highway.carrying(read(f"{highway}{k}.weight"), read(f"{highway}{k}.bias")) for k in range(highways)],
    )


def allennlp_cells(read: Read, stack: str, count: int) -> list[list[Cell]]:
    """Read AllenNLP's cells, with gates i, f, g, o, and the forget bias included in the bias."""

    def cell(place: str) -> Cell:
        parts = ("input_linearity.weight", "state_linearity.weight", "state_linearity.bias")
        w, u, b = (np.split(read(place + part), 4) for part in parts)
        gates = {gate: (w[n].T, u[n].T, b[n]) for n, gate in enumerate("ifgo")}
        return Cell(gates, read(f"{place}state_projection.weight").T)

    return [[cell(f"{stack}{side}_layer_{layer}.") for side in ("forward", "backward")] for layer in range(count)]
