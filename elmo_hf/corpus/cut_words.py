"""Words of which a model reads only the beginning: how many of a text's there are, said once."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from elmo_hf.tokenizer.encodings import Spelling

Item = TypeVar("Item")


class CutWords:
    """Counts running words that a spelling cuts.

    Args:
        spelling: how the model's words become rows of characters.
    """

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        # A tokenizer whose code came with an older checkpoint cannot tell.
        self._is_cut: Callable[[str], bool] = getattr(spelling, "is_cut", lambda word: False)
        self.words = self.cut = 0
        self._example = ""

    def look(self, words: Iterable[str], count: int = 1) -> None:
        """Count words that stand in the text `count` times."""
        for word in words:
            self.words += count
            if self._is_cut(word):
                self.cut += count
                self._example = self._example or word

    def over(self, items: Iterable[Item], words_of: Callable[[Item], Iterable[str]]) -> Iterator[Item]:
        """The same items, whose words are counted as they pass; behind the last one, `tell`."""
        for item in items:
            self.look(words_of(item))
            yield item
        self.tell()

    def tell(self, of: str = "") -> None:
        """Warn, if any word was cut, with their share of the words `of` some part of the text."""
        if self.cut:
            room = f"{self._spelling.max_characters_per_word - 2} {self._spelling.units}"
            warnings.warn(
                f"{self.cut:,} of {self.words:,} words{of} ({self.cut / self.words:.2%}) have more than {room}; the "
                f"model reads the first {room}, as the original programs do: {self._example!r:.70}. Words that begin "
                "alike are one word to it. Split the text into shorter words, above all of a script without spaces, or "
                "pretrain a model with a larger max_characters_per_word",
                stacklevel=3,
            )
