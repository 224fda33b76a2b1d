"""ELMo once more, as plainly as it can be written: NumPy, float64, one word at a time, straight from the files.

This is the second opinion that `verify` asks. It shares no line with the model, the tokenizer or the conversion: its
own reading of the layouts in each room, its own character rows, its own formulas. Speed does not matter.

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


def activation(name: str) -> Callable[[Array], Array]:
    """Tanh or relu, by the name that options have for it."""
    return np.tanh if name == "tanh" else lambda x: np.maximum(x, 0)


def clipped(x: Array, bound: float | None) -> Array:
    return x if not bound else np.minimum(np.maximum(x, -bound), bound)


@dataclass(frozen=True)
class TaskAnswer:
    """What a task model says of a sentence.

    Attributes:
        logits: (words, tags) before a field, or (classes).
        tags: the best sequence of a tagger, `None` of a classifier.
        score: the score of a sequence of tags, as decoding sees it.
        log_likelihood: the natural logarithm of a sequence's probability, as training sees it.
    """

    logits: Array
    tags: list[int] | None = None
    score: Callable[[Sequence[int]], float] = lambda tags: 0.0
    log_likelihood: Callable[[Sequence[int]], float] = lambda tags: 0.0


class PlainTask(Protocol):
    """A plain implementation of a task model over its language model."""

    @property
    def words(self) -> list[str]:
        """The words that its own table knows, if it has one."""

    def answer(self, batch: Sequence[Sequence[str]]) -> list[TaskAnswer]:
        """What it says of each sentence; the language model's state goes on from call to call."""


@dataclass
class Highway:
    """y = c * relu(W x + b) + (1 - c) * x, c = sigmoid(V x + d)."""

    w: Array
    b: Array
    v: Array
    d: Array

    @classmethod
    def carrying(cls, w: Array, b: Array) -> "Highway":
        """AllenNLP's, (2F, F) and (2F): y = g x + (1 - g) relu(.), and sigmoid(-z) = 1 - sigmoid(z)."""
        size = w.shape[1]
        return cls(w[:size].T, b[:size], -w[size:].T, -b[size:])

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
class Linear:
    """y = x W + b."""

    w: Array
    b: Array

    def __call__(self, x: Array) -> Array:
        return x @ self.w + self.b


@dataclass
class CharacterCnn:
    """The vector of one word from the ids of its characters.

    Attributes:
        table: (characters, D), row = id.
        filters: for each width a list of (width, D) kernels stacked to (width, D, n), and the biases (n).
        activation: over the largest value of each filter.
        layers: what follows: highways, a projection, a norm, in the order in which they are applied.
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
    """The character encoder over bytes.

    Attributes:
        cnn: the vector of a word.
        length: characters of a word, boundaries included.
        lines: none: no word is known by its row.
    """

    cnn: CharacterCnn
    length: int
    lines: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, words: Sequence[str]) -> Array:
        """The vectors of a sentence with both boundaries around it, (words + 2, P)."""
        return np.stack([self.cnn(row) for row in sentence_rows(words, self.length)])


class WordVectors(Protocol):
    """The vectors of a sentence's words."""

    @property
    def lines(self) -> Mapping[str, int]:
        """The words that are known by their row, if any are."""

    def __call__(self, words: Sequence[str]) -> Array:
        """The vectors of a sentence with both boundaries around it, (words + 2, P)."""


class Plain(Protocol):
    """A plain implementation, as `verify` uses it.

    Attributes:
        vectors: the layer of words.
        state: of each row, carried from call to call until it is cleared; always empty without `has_state`.
    """

    vectors: WordVectors
    state: dict[int, Any]
    has_state: bool

    @property
    def depth(self) -> int:
        """Layers of each direction."""

    def embed(self, batch: Sequence[Sequence[str]]) -> list[Array]:
        """All layers of each sentence, (layers + 1, words + 2, 2P)."""


@dataclass
class PlainElmo:
    """The biLM of a source file.

    Attributes:
        vectors: words of a sentence -> (words + 2, P).
        cells: [layer][direction], the backward one if there is one.
        state: row -> [layer][direction] -> (h, c), carried from call to call until it is cleared.
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
        """Layers of each direction."""
        return len(self.cells)

    def embed(self, batch: Sequence[Sequence[str]]) -> list[Array]:
        """All layers of each sentence, (layers + 1, words + 2, 2P); row r goes on from its state."""
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
                    # The skip connection is seen by the next layer, never by the next step.
                    steps.append(h + x if self.skip and number > 0 else h)
                state[number, direction] = h, c
                outputs.append(np.stack(steps))
            inputs = outputs
            layers.append(np.concatenate([outputs[0], *(backward[::-1] for backward in outputs[1:])], axis=1))
        return np.stack(layers)


def torch_linear(read: Read, name: str) -> Linear:
    """A linear layer as PyTorch stores it, (out, in)."""
    return Linear(read(f"{name}.weight").T, read(f"{name}.bias"))


def allennlp_cnn(
    read: Read, table: str, convolution: str, highway: str, filters: int, highways: int, maximum: str
) -> CharacterCnn:
    """A character CNN as PyTorch and AllenNLP store it; names of convolutions, (n, D, width), and highways lack their
    number, and `maximum` is the activation over the largest values."""
    kernels = [(read(f"{convolution}{i}.weight"), read(f"{convolution}{i}.bias")) for i in range(filters)]
    return CharacterCnn(
        read(table),
        [(kernel.transpose(2, 1, 0), bias) for kernel, bias in kernels],
        activation(maximum),
        [Highway.carrying(read(f"{highway}{k}.weight"), read(f"{highway}{k}.bias")) for k in range(highways)],
    )


def allennlp_cells(read: Read, stack: str, count: int) -> list[list[Cell]]:
    """AllenNLP's cells: gates i, f, g, o, the forget bias inside."""

    def cell(place: str) -> Cell:
        parts = ("input_linearity.weight", "state_linearity.weight", "state_linearity.bias")
        w, u, b = (np.split(read(place + part), 4) for part in parts)
        gates = {gate: (w[n].T, u[n].T, b[n]) for n, gate in enumerate("ifgo")}
        return Cell(gates, read(f"{place}state_projection.weight").T)

    return [[cell(f"{stack}{side}_layer_{layer}.") for side in ("forward", "backward")] for layer in range(count)]
