"""ELMoForManyLangs once more, as plainly as it can be written; see `plain`, whose biLM it shares.

Its own reading of dictionaries and names, its own character rows, its own formulas.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.plain import Array, Cell, PlainElmo, Read, sigmoid


def read_dictionary(lines: Sequence[str]) -> dict[str, int]:
    """Lines of symbol, tab, id; a stripped line with one field is U+3000, of several the last."""
    symbols: dict[str, int] = {}
    for line in lines:
        fields = line.strip().split("\t")
        symbols["\u3000" if len(fields) == 1 else fields[0]] = int(fields[-1])
    return symbols


@dataclass
class WordsAndCharacters:
    """The token embedder: projection([row of a table; character CNN]), of the parts that there are.

    Attributes:
        names, read: the arrays, by the names in `token_embedder.pkl`.
        options: `token_embedder` of the architecture file.
        characters, lines: id of every character, of every word; empty for a part that is missing.
    """

    names: set[str]
    read: Read
    options: Mapping[str, Any]
    characters: Mapping[str, int]
    lines: Mapping[str, int]

    def __post_init__(self) -> None:
        place = "token_embedder."
        weights = {name.removeprefix(place): self.read(name) for name in self.names if name.startswith(place)}
        self.weights: dict[str, Array] = weights

    def __call__(self, words: Sequence[str]) -> Array:
        """The vectors of a sentence with both boundaries around it, (words + 2, P)."""
        longest = self.options["max_characters_per_token"]
        cut = [word if len(word) + 2 <= longest else word[: longest - 2] for word in words]
        return np.stack([self.word(word, longest) for word in ["<bos>", *cut, "<eos>"]])

    def word(self, word: str, longest: int) -> Array:
        parts = []
        if self.lines:
            table = self.weights["word_emb_layer.embedding.weight"]
            parts.append(table[self.lines.get(word, self.lines["<oov>"])])
        if self.characters:
            parts.append(self.convolve(self.row(word, longest)))
        return self.weights["projection.weight"] @ np.concatenate(parts) + self.weights["projection.bias"]

    def row(self, word: str, longest: int) -> list[int]:
        """What stands for the begin of a word is called `<eow>`, what stands for its end `<bow>`."""
        ids = self.characters
        if word in ("<bos>", "<eos>"):
            letters = [ids[word]]
        else:
            letters = [ids[letter] if letter in ids else ids["<oov>"] for letter in word]
        row = [ids["<eow>"], *letters, ids["<bow>"]]
        while len(row) < longest:
            row.append(ids["<pad>"])
        return row

    def convolve(self, row: Sequence[int]) -> Array:
        x = self.weights["char_emb_layer.embedding.weight"][list(row)]  # (characters, D)
        tops = []
        for number, (width, _) in enumerate(self.options["filters"]):
            kernel = self.weights[f"convolutions.{number}.weight"]  # (n, D, width)
            windows = [(kernel * x[t : t + width].T).sum(axis=(1, 2)) for t in range(len(x) - width + 1)]
            top = np.max(windows, axis=0) + self.weights[f"convolutions.{number}.bias"]
            tops.append(np.tanh(top) if self.options["activation"] == "tanh" else np.maximum(top, 0))
        y = np.concatenate(tops)
        for k in range(self.options.get("n_highway") or 0):
            both = self.weights[f"highways._layers.{k}.weight"] @ y + self.weights[f"highways._layers.{k}.bias"]
            other, carry = np.maximum(both[: len(y)], 0), sigmoid(both[len(y) :])
            y = carry * y + (1 - carry) * other
        return y


def from_elmoformanylangs(
    names: set[str],
    read: Read,
    architecture: Mapping[str, Any],
    character_lines: Sequence[str] | None,
    word_lines: Sequence[str] | None,
) -> PlainElmo:
    """From the arrays of both state dicts, whose gates are i, f, g, o with the forget bias inside, and dictionaries."""
    options = architecture["encoder"]

    def cell(side: str, layer: int) -> Cell:
        place = f"encoder.{side}_layer_{layer}."
        blocks = {
            part: np.split(read(f"{place}{part}"), 4)
            for part in ("input_linearity.weight", "state_linearity.weight", "state_linearity.bias")
        }
        w, u, b = blocks.values()
        gates = {gate: (w[n].T, u[n].T, b[n]) for n, gate in enumerate("ifgo")}
        return Cell(gates, read(f"{place}state_projection.weight").T)

    vectors = WordsAndCharacters(
        names,
        read,
        architecture["token_embedder"],
        read_dictionary(character_lines) if character_lines is not None else {},
        # The softmax alone may have words.
        read_dictionary(word_lines) if word_lines is not None and architecture["token_embedder"]["word_dim"] else {},
    )
    return PlainElmo(
        vectors,
        cells=[[cell(side, layer) for side in ("forward", "backward")] for layer in range(options["n_layers"])],
        skip=True,
        cell_clip=options.get("cell_clip"),
        projection_clip=options.get("proj_clip"),
    )
