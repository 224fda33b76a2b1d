"""Character ids of words by a model's own dictionary of code points, as in ELMoForManyLangs.

A word is its Unicode code points between two marks, padded to a fixed length; a code point that is not in the
dictionary is `<oov>`. Ids begin at 1, so that 0 is free for padding *words*, as for bytes (`characters`).

The original swaps two marks: a word begins with the id of `<eow>` and ends with the id of `<bow>`. Its maintainers keep
this, because all released models were trained this way, and so does this file.

Source: ELMoForManyLangs `elmoformanylangs/elmo.py` (`read_list`, `Embedder`), `biLM.py` (`create_one_batch`).
"""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .characters import check_max_characters_per_word
from .complete_files import appearing

BEGIN_OF_SENTENCE, END_OF_SENTENCE, UNKNOWN, PADDING = "<bos>", "<eos>", "<oov>", "<pad>"
# Swapped, as in the original (see above).
BEGIN_OF_WORD, END_OF_WORD = "<eow>", "<bow>"
MARKS = (BEGIN_OF_SENTENCE, END_OF_SENTENCE, UNKNOWN, PADDING, END_OF_WORD, BEGIN_OF_WORD)
# Character ids are int32, and the size of the table is the largest id + 1.
LARGEST_ID = 2**31 - 2
IDEOGRAPHIC_SPACE = "\u3000"
"""The only whitespace that a dictionary file can contain: a line without another symbol stands for it."""


class CharacterDictionary:
    """Symbols and their ids, which begin at 1.

    Args:
        symbols: a list of symbols, the first of which has id 1, or a mapping from symbols to ids. Unassigned ids are
            unused rows of the table. Symbols of several code points, except the marks, never match.
        where: source of the symbols, for error messages.

    Raises:
        TypeError: symbols or ids of another type.
        ValueError: a symbol that is listed twice, empty or whitespace; an id out of range or used twice; a missing
            mark.
    """

    def __init__(self, symbols: Sequence[str] | Mapping[str, int], where: str = "character_vocabulary") -> None:
        if isinstance(symbols, str):
            raise TypeError(f"{where} is the text {symbols!r}: expected a list of symbols, or a mapping to their ids")
        ids: dict[str, int] = {}
        owners: dict[int, str] = {}
        entries = symbols.items() if isinstance(symbols, Mapping) else ((each, n) for n, each in enumerate(symbols, 1))
        for symbol, number in entries:
            if not isinstance(symbol, str) or isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(f"{where}: {symbol!r} has the id {number!r}; expected a str and an int")
            if fault := _fault(symbol):
                raise ValueError(
                    f"{where}: {symbol!r}, id {number}, {fault}, which no dictionary file can hold (of all whitespace "
                    f"only {IDEOGRAPHIC_SPACE!r}). Remove it from the dictionary, and its row from the table"
                )
            if symbol in ids:
                raise ValueError(
                    f"{where}: {symbol!r} has the ids {ids[symbol]} and {number}; each symbol may occur only once. "
                    "Remove one, and its row of the table"
                )
            if not 1 <= number <= LARGEST_ID or number in owners:
                taken = f"which {owners[number]!r} has already" if number in owners else "0 is for padding words"
                raise ValueError(f"{where}: {symbol!r} has the id {number}, {taken}; expected ids from 1 on, each once")
            ids[symbol] = number
            owners[number] = symbol
        missing = [mark for mark in MARKS if mark not in ids]
        if missing:
            raise ValueError(
                f"{where}: no entry for {', '.join(missing)}; a dictionary needs {', '.join(MARKS)} besides its "
                "characters. Add the missing ones, with rows of the table"
            )
        self.ids = ids

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "CharacterDictionary":
        """Read a file written by `save`.

        Raises:
            ValueError: a damaged file; the message names it.
        """
        try:
            ids = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_unique_names)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not valid JSON ({error}); save the tokenizer again") from error
        if not isinstance(ids, dict):
            raise ValueError(f"{path}: holds a {type(ids).__name__}; expected an object of symbols and their ids")
        return cls(ids, str(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON object of symbols and ids, atomically."""
        ids = dict(sorted(self.ids.items(), key=lambda item: item[1]))
        text = json.dumps(ids, ensure_ascii=False, indent=0)
        with appearing(path) as aside:
            aside.write_text(text + "\n", encoding="utf-8", newline="\n")

    @property
    def num_characters(self) -> int:
        """Number of rows of the model's character table: the largest id + 1."""
        return max(self.ids.values()) + 1

    @property
    def dtype(self) -> type[np.signedinteger]:
        """Dtype of character ids: int16, as for bytes, or int32 if the ids do not fit."""
        return np.int16 if self.num_characters <= np.iinfo(np.int16).max else np.int32

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The code points with an id, in increasing order, and their ids."""
        pairs = sorted((ord(symbol), number) for symbol, number in self.ids.items() if len(symbol) == 1)
        return np.array([code for code, _ in pairs], np.uint32), np.array([number for _, number in pairs], np.int64)

    def find(self, text: str) -> NDArray[np.int64]:
        """Ids of the code points of a text, int64 of shape (code points,)."""
        codes, ids = self._sorted
        wanted = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        if not len(codes):
            return np.full(len(wanted), self.ids[UNKNOWN], np.int64)
        places = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
        return np.where(codes[places] == wanted, ids[places], self.ids[UNKNOWN])


class DictionarySpelling:
    """Spelling of words by a [`CharacterDictionary`], with the interface of `characters.ByteSpelling`.

    Args:
        dictionary: the characters.
        max_characters_per_word: length of a row, both marks included.
    """

    def __init__(self, dictionary: CharacterDictionary, max_characters_per_word: int) -> None:
        self.dictionary = dictionary
        self.max_characters_per_word = check_max_characters_per_word(max_characters_per_word)
        self.dtype = dictionary.dtype

    def lookup_form(self, word: str) -> str:
        """Key of a word in the vocabulary: the code points that fit between the marks."""
        return word[: self.max_characters_per_word - 2]

    def rows(self, words: Sequence[str]) -> NDArray[np.signedinteger]:
        """Character ids of words, (words, max_characters_per_word) of `dtype`."""
        cut = [self.lookup_form(word) for word in words]
        lengths = np.fromiter(map(len, cut), dtype=np.int64, count=len(cut))
        rows = self._padded(len(cut))
        # Row-major order of the mask is the order of the joined code points.
        inside = np.arange(self.max_characters_per_word - 2) < lengths[:, None]  # [words, width]
        rows[:, 1:-1][inside] = self.dictionary.find("".join(cut))
        rows[np.arange(len(cut)), lengths + 1] = self.dictionary.ids[END_OF_WORD]
        return rows

    def boundary_rows(self) -> NDArray[np.signedinteger]:
        """Character ids of the beginning and the end of a sentence, (2, max_characters_per_word)."""
        ids = self.dictionary.ids
        rows = self._padded(2)
        rows[:, 1] = ids[BEGIN_OF_SENTENCE], ids[END_OF_SENTENCE]
        rows[:, 2] = ids[END_OF_WORD]
        return rows

    def _padded(self, count: int) -> NDArray[np.signedinteger]:
        rows = np.full((count, self.max_characters_per_word), self.dictionary.ids[PADDING], dtype=self.dtype)
        rows[:, 0] = self.dictionary.ids[BEGIN_OF_WORD]
        return rows


def _fault(symbol: str) -> str | None:
    """Reason why a symbol is not allowed in a dictionary, or `None`."""
    if not symbol:
        return "is empty"
    if symbol.isspace() and symbol != IDEOGRAPHIC_SPACE:
        return "is whitespace"
    return "holds a lone surrogate" if any("\ud800" <= character <= "\udfff" for character in symbol) else None


def _unique_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build a dict from a JSON object; raise a `ValueError` for a duplicate name, which `json` would overwrite."""
    values = dict(pairs)
    if len(values) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"lists {twice!r} twice; each symbol may occur only once")
    return values
