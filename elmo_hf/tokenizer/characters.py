"""Words to character rows, exactly as the original ELMo programs make them.

A word is its UTF-8 bytes between a begin-of-word and an end-of-word mark, padded to a fixed length. All ids are the
originals' ids plus one (bilm-tf `Batcher`, AllenNLP `ELMoCharacterMapper`), so that 0 is free for padding *words*:

    =====================  =======================================================
    id                     meaning
    =====================  =======================================================
    0                      padding of the sequence; a padding word is a row of zeros
    1 ... 256              the bytes 0 ... 255
    257, 258               the begin and the end of a sentence
    259, 260               the begin and the end of a word
    261                    padding of a word
    =====================  =======================================================
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

NUM_CHARACTERS = 262
MINIMUM_CHARACTERS_PER_WORD = 3
# Every word takes a row of so many.
MAXIMUM_CHARACTERS_PER_WORD = 10_000
"""A mark, one character and a mark: less cannot hold a sentence boundary."""

BYTE_OFFSET = 1
BEGIN_OF_SENTENCE = 257
END_OF_SENTENCE = 258
BEGIN_OF_WORD = 259
END_OF_WORD = 260
WORD_PADDING = 261

CharacterIds = NDArray[np.int16]


def check_max_characters_per_word(max_characters_per_word: int) -> int:
    """Return the length of a row, or raise a `ValueError` where it is not an integer of at least 3."""
    if (
        isinstance(max_characters_per_word, bool)
        or not isinstance(max_characters_per_word, int)
        or not MINIMUM_CHARACTERS_PER_WORD <= max_characters_per_word <= MAXIMUM_CHARACTERS_PER_WORD
    ):
        raise ValueError(
            f"max_characters_per_word is {max_characters_per_word!r:.60}; expected an integer of at least "
            f"{MINIMUM_CHARACTERS_PER_WORD} (two marks and one character) and at most {MAXIMUM_CHARACTERS_PER_WORD}. "
            "The published models use 50"
        )
    return max_characters_per_word


def check_tokens_to_add(tokens_to_add: Mapping[str, int]) -> dict[str, int]:
    """Return words with a character of their own, or raise a `ValueError` for one outside of the originals' table."""
    for word, character in tokens_to_add.items():
        if isinstance(character, bool) or not isinstance(character, int) or not 0 <= character < NUM_CHARACTERS - 1:
            raise ValueError(
                f"tokens_to_add has {character!r} for {word!r}: expected a character from 0 to {NUM_CHARACTERS - 2}; 1 "
                "to 31 are bytes that text does not use"
            )
    return dict(tokens_to_add)


def character_ids_of_words(words: Sequence[str], max_characters_per_word: int) -> CharacterIds:
    """The rows of many words at once, int16 of shape (words, max_characters_per_word)."""
    width = max_characters_per_word - 2
    encoded = [word.encode("utf-8", "ignore")[:width] for word in words]
    lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
    rows = np.full((len(encoded), max_characters_per_word), WORD_PADDING, dtype=np.int16)
    rows[:, 0] = BEGIN_OF_WORD
    # Row-major order of the mask is the order of the joined bytes.
    inside = np.arange(width) < lengths[:, None]  # [words, width]
    rows[:, 1:-1][inside] = np.frombuffer(b"".join(encoded), dtype=np.uint8).astype(np.int16) + BYTE_OFFSET
    rows[np.arange(len(encoded)), lengths + 1] = END_OF_WORD
    return rows


def character_ids_of_boundaries(max_characters_per_word: int) -> CharacterIds:
    """The rows of the begin and of the end of a sentence, int16 of shape (2, max_characters_per_word)."""
    rows = np.full((2, max_characters_per_word), WORD_PADDING, dtype=np.int16)
    rows[:, 0] = BEGIN_OF_WORD
    rows[:, 1] = BEGIN_OF_SENTENCE, END_OF_SENTENCE
    rows[:, 2] = END_OF_WORD
    return rows


class ByteSpelling:
    """How words become rows of bytes; `character_dictionary` has the other way.

    Args:
        max_characters_per_word: length of a row, both marks included.
        tokens_to_add: words that have a character of their own in place of their bytes (AllenNLP's option).
    """

    dtype = np.int16

    def __init__(self, max_characters_per_word: int, tokens_to_add: Mapping[str, int] | None = None) -> None:
        self.max_characters_per_word = check_max_characters_per_word(max_characters_per_word)
        self.tokens_to_add = check_tokens_to_add(tokens_to_add or {})

    def lookup_form(self, word: str) -> str:
        """What a vocabulary is asked for: the word, however long it is."""
        return word

    def rows(self, words: Sequence[str]) -> CharacterIds:
        """(words, max_characters_per_word)."""
        rows = character_ids_of_words(words, self.max_characters_per_word)
        for place, word in enumerate(words) if self.tokens_to_add else ():
            if word in self.tokens_to_add:
                rows[place] = WORD_PADDING
                rows[place, :3] = BEGIN_OF_WORD, self.tokens_to_add[word] + BYTE_OFFSET, END_OF_WORD
        return rows

    def boundary_rows(self) -> CharacterIds:
        """The rows of the begin and of the end of a sentence, (2, max_characters_per_word)."""
        return character_ids_of_boundaries(self.max_characters_per_word)
