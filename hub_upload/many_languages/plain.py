"""The plain implementation of ELMoForManyLangs, with the biLM of `common.plain`.

It has its own reader of dictionaries and names, and its own character rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.plain import Array, CharacterCnn, Linear, PlainElmo, Read, allennlp_cells, allennlp_cnn, torch_linear


def read_dictionary(lines: Sequence[str]) -> dict[str, int]:
    """Parse lines of symbol, tab and id. A stripped line with one field means U+3000; the last of several counts."""
    symbols: dict[str, int] = {}
    for line in lines:
        fields = line.strip().split("\t")
        symbols["\u3000" if len(fields) == 1 else fields[0]] = int(fields[-1])
    return symbols


@dataclass
class WordsAndCharacters:
    """The token embedder: projection([word embedding; character CNN]), with at least one of the two parts.

    Attributes:
        table: word embedding, (V, W), one row per word id; `None` without `lines`.
        cnn: character CNN; `None` without `characters`.
        projection: projection of both parts.
        length: number of characters per word, including boundaries.
        characters, lines: id of every character, and of every word; empty for a missing part.
    """

    table: Array | None
    cnn: CharacterCnn | None
    projection: Linear
    length: int
    characters: Mapping[str, int]
    lines: Mapping[str, int]

    def __call__(self, words: Sequence[str]) -> Array:
        """Vectors of a sentence with both boundaries, (words + 2, P)."""
        cut = [word if len(word) + 2 <= self.length else word[: self.length - 2] for word in words]
        return np.stack([self.word(word) for word in ["<bos>", *cut, "<eos>"]])

    def word(self, word: str) -> Array:
        parts = [] if self.table is None else [self.table[self.lines.get(word, self.lines["<oov>"])]]
        parts += [] if self.cnn is None else [self.cnn(self.row(word))]
        return self.projection(np.concatenate(parts))

    def row(self, word: str) -> list[int]:
        """Character ids of a word. Its beginning is marked by `<eow>` and its end by `<bow>`, as in the original."""
        ids = self.characters
        if word in ("<bos>", "<eos>"):
            letters = [ids[word]]
        else:
            letters = [ids[letter] if letter in ids else ids["<oov>"] for letter in word]
        row = [ids["<eow>"], *letters, ids["<bow>"]]
        return row + [ids["<pad>"]] * (self.length - len(row))


def from_elmoformanylangs(
    read: Read, architecture: Mapping[str, Any], character_lines: Sequence[str] | None, word_lines: Sequence[str] | None
) -> PlainElmo:
    """Build the plain model from the arrays of both state dicts and the lines of both dictionaries."""
    options, embedder = architecture["encoder"], architecture["token_embedder"]
    characters = read_dictionary(character_lines) if character_lines is not None else {}
    # Words may belong to the softmax only.
    words = read_dictionary(word_lines) if word_lines is not None and embedder["word_dim"] else {}
    place, cnn = "token_embedder.", None
    if characters:
        cnn = allennlp_cnn(
            read,
            f"{place}char_emb_layer.embedding.weight",
            f"{place}convolutions.",
            f"{place}highways._layers.",
            len(embedder["filters"]),
            embedder.get("n_highway") or 0,
            embedder["activation"],
        )
    return PlainElmo(
        WordsAndCharacters(
            table=read(f"{place}word_emb_layer.embedding.weight") if words else None,
            cnn=cnn,
            projection=torch_linear(read, f"{place}projection"),
            length=embedder["max_characters_per_token"],
            characters=characters,
            lines=words,
        ),
        cells=allennlp_cells(read, "encoder.", options["n_layers"]),
        skip=True,
        cell_clip=options.get("cell_clip"),
        projection_clip=options.get("proj_clip"),
    )
