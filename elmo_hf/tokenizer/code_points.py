"""Code point ids for the character CNN of a task model, all words of a sentence in one row.

A word is the ids of all its code points, case-sensitive and without marks or a limit, followed by 1. Sentence
boundaries are words without code points. Padding may be on either side:

    =========  ==================================================
    id         meaning
    =========  ==================================================
    0          padding of the row
    1          the end of a word
    2          a code point that is not in the set
    3, ...     the code points of the set
    =========  ==================================================

Source: AllenNLP's `characters` indexer with its `token_characters` vocabulary, whose ids are one less.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

PADDING, END_OF_WORD, UNKNOWN, FIRST = range(4)


class CodePoints:
    """Code points and their ids.

    Args:
        symbols: strings of one code point each, in the order of their ids.

    Raises:
        TypeError: not a list of strings.
        ValueError: a string of another length, a lone surrogate, or a symbol listed twice.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        if isinstance(symbols, str) or not all(isinstance(symbol, str) for symbol in symbols):
            raise TypeError(f"code_point_set is {symbols!r:.80}: expected a list of single characters")
        self.ids: dict[str, int] = {}
        for number, symbol in enumerate(symbols, FIRST):
            if len(symbol) != 1 or "\ud800" <= symbol <= "\udfff" or symbol in self.ids:
                fault = "listed twice" if symbol in self.ids else "no single code point"
                raise ValueError(f"code_point_set holds {symbol!r}, {fault}; expected each code point once")
            self.ids[symbol] = number

    @property
    def num_code_points(self) -> int:
        """Number of rows of the model's table (`ElmoConfig.num_task_characters`), which excludes id 0."""
        return len(self.ids) + FIRST - 1

    def spell(self, word: str) -> list[int]:
        """Ids of a word's code points, its end included."""
        return [*(self.ids.get(symbol, UNKNOWN) for symbol in word), END_OF_WORD]


def padded(rows: Iterable[Sequence[int]], side: str) -> NDArray[np.int64]:
    """Pad rows of ids with zeros on `side`: int64 of shape (batch, length of the longest row)."""
    arrays = [np.asarray(row, dtype=np.int64) for row in rows]
    longest = max(map(len, arrays), default=0)
    result = np.full((len(arrays), longest), PADDING, dtype=np.int64)
    for line, row in zip(result, arrays, strict=True):
        if len(row):
            line[slice(len(row)) if side == "right" else slice(-len(row), None)] = row
    return result
