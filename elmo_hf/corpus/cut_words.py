"""A warning about words that are longer than the model reads."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from elmo_hf.tokenizer.encodings import Spelling

Item = TypeVar("Item")


class CutWords:
    """Counter of running words that a spelling truncates.

    Args:
        spelling: the model's mapping from words to rows of characters.
    """

    def __init__(self, spelling: Spelling) -> None:
        self._units = "characters" if hasattr(spelling, "dictionary") else "bytes"
        self._room = spelling.max_characters_per_word - 2
        self.words = self.cut = 0
        self._example = ""

    def look(self, words: Iterable[str], count: int = 1) -> None:
        """Count words that occur in the text `count` times."""
        for word in words:
            self.words += count
            if self.is_cut(word):
                self.cut += count
                self._example = self._example or word

    def is_cut(self, word: str) -> bool:
        """True for a word that is truncated: the model reads only its first bytes or characters."""
        if self._units == "characters":
            return len(word) > self._room
        return 4 * len(word) > self._room and len(word.encode("utf-8", "ignore")) > self._room

    def over(self, items: Iterable[Item], words_of: Callable[[Item], Iterable[str]]) -> Iterator[Item]:
        """Yield the items unchanged while counting their words; after the last one, `tell`."""
        for item in items:
            self.look(words_of(item))
            yield item
        self.tell()

    def tell(self, of: str = "") -> None:
        """If any word was truncated, warn with the share of such words; `of` names the part of the text."""
        if self.cut:
            room = f"{self._room} {self._units}"
            warnings.warn(
                f"{self.cut:,} of {self.words:,} words{of} ({self.cut / self.words:.2%}) have more than {room}; the "
                f"model reads the first {room}, as the original programs do: {self._example!r:.70}. It cannot tell "
                "words apart that begin alike. Split the text into shorter words, above all of a script without "
                "spaces, or pretrain a model with a larger max_characters_per_word",
                stacklevel=3,
            )
