"""Words to the code points that a task's own character CNN reads, all of a sentence in one row.

A word is all its code points, with no marks, no limit and case kept, and 1 behind them; boundaries of sentences are
words without any. So one row holds a sentence however long its words are, and padding may stand on either side:

    =========  ==================================================
    id         meaning
    =========  ==================================================
    0          padding of the row
    1          the end of a word
    2          a code point that the set lacks
    3, ...     the code points of the set
    =========  ==================================================

Source: AllenNLP's `characters` indexer with its `token_characters` vocabulary; here ids are one more.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

PADDING, END_OF_WORD, UNKNOWN, FIRST = range(4)


class CodePoints:
    """The code points that have an id.

    Args:
        symbols: texts of one code point, in the order of their ids.

    Raises:
        TypeError, ValueError: another value, a lone surrogate, or a symbol listed twice.
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
        """Rows of the model's table (`ElmoConfig.num_task_characters`): those of ids 1 and more."""
        return len(self.ids) + FIRST - 1

    def spell(self, word: str) -> list[int]:
        """The ids of a word, its end included."""
        return [*(self.ids.get(symbol, UNKNOWN) for symbol in word), END_OF_WORD]


def padded(rows: Iterable[Sequence[int]], side: str) -> NDArray[np.int64]:
    """Rows of ids as one array (batch, characters of the longest), zeros on `side`."""
    arrays = [np.asarray(row, dtype=np.int64) for row in rows]
    longest = max(map(len, arrays), default=0)
    result = np.full((len(arrays), longest), PADDING, dtype=np.int64)
    for line, row in zip(result, arrays, strict=True):
        if len(row):
            line[slice(len(row)) if side == "right" else slice(-len(row), None)] = row
    return result
