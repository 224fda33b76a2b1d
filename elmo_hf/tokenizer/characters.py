"""Character ids of words, exactly as in the original ELMo programs.

A word is its UTF-8 bytes between a begin-of-word and an end-of-word mark, padded to a fixed length. All ids are the
originals' ids plus one (bilm-tf `Batcher`, AllenNLP `ELMoCharacterMapper`), so that 0 is free for padding *words*:

    =====================  =======================================================
    id                     meaning
    =====================  =======================================================
    0                      padding of the sequence; a padding word is a row of zeros
    1 ... 256              the bytes 0 ... 255
    257, 258               the beginning and the end of a sentence
    259, 260               the beginning and the end of a word
    261                    padding of a word
    =====================  =======================================================
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

NUM_CHARACTERS = 262
MINIMUM_CHARACTERS_PER_WORD = 3
"""A sentence boundary is a mark, one character and a mark."""
# Every word takes a row of this length.
MAXIMUM_CHARACTERS_PER_WORD = 10_000

BYTE_OFFSET = 1
BEGIN_OF_SENTENCE = 257
END_OF_SENTENCE = 258
BEGIN_OF_WORD = 259
END_OF_WORD = 260
WORD_PADDING = 261

CharacterIds = NDArray[np.int16]


def check_max_characters_per_word(max_characters_per_word: int) -> int:
    """Return the length of a row; raise a `ValueError` unless it is an integer in the allowed range."""
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
    """Return `tokens_to_add` as a dict; raise a `ValueError` for a character outside the originals' table."""
    for word, character in tokens_to_add.items():
        if isinstance(character, bool) or not isinstance(character, int) or not 0 <= character < NUM_CHARACTERS - 1:
            raise ValueError(
                f"tokens_to_add has {character!r} for {word!r}: expected a character from 0 to {NUM_CHARACTERS - 2}; "
                "choose from 1 to 31, bytes that do not occur in text"
            )
    return dict(tokens_to_add)


def character_ids_of_words(words: Sequence[str], max_characters_per_word: int) -> CharacterIds:
    """Character ids of words, int16 of shape (words, max_characters_per_word)."""
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
    """Character ids of the beginning and the end of a sentence, int16 of shape (2, max_characters_per_word)."""
    rows = np.full((2, max_characters_per_word), WORD_PADDING, dtype=np.int16)
    rows[:, 0] = BEGIN_OF_WORD
    rows[:, 1] = BEGIN_OF_SENTENCE, END_OF_SENTENCE
    rows[:, 2] = END_OF_WORD
    return rows


class ByteSpelling:
    """Spelling of words by their bytes (see `character_dictionary` for code points).

    Args:
        max_characters_per_word: length of a row, both marks included.
        tokens_to_add: words spelled by a single character id in place of their bytes (AllenNLP's option).
    """

    dtype = np.int16

    def __init__(self, max_characters_per_word: int, tokens_to_add: Mapping[str, int] | None = None) -> None:
        self.max_characters_per_word = check_max_characters_per_word(max_characters_per_word)
        self.tokens_to_add = check_tokens_to_add(tokens_to_add or {})

    def lookup_form(self, word: str) -> str:
        """Key of a word in the vocabulary: the whole word, however long."""
        return word

    def rows(self, words: Sequence[str]) -> CharacterIds:
        """Character ids of words, int16 of shape (words, max_characters_per_word)."""
        rows = character_ids_of_words(words, self.max_characters_per_word)
        for place, word in enumerate(words) if self.tokens_to_add else ():
            if word in self.tokens_to_add:
                rows[place] = WORD_PADDING
                rows[place, :3] = BEGIN_OF_WORD, self.tokens_to_add[word] + BYTE_OFFSET, END_OF_WORD
        return rows

    def boundary_rows(self) -> CharacterIds:
        """Character ids of the beginning and the end of a sentence, int16 of shape (2, max_characters_per_word)."""
        return character_ids_of_boundaries(self.max_characters_per_word)
