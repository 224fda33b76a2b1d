"""Plain implementation of a word's character row, the reference for the tokenizer's batches of words."""

from elmo_hf.tokenizer.characters import BEGIN_OF_WORD, BYTE_OFFSET, END_OF_WORD, WORD_PADDING


def character_ids_of_word(word: str, max_characters_per_word: int) -> list[int]:
    """Its bytes between two marks, and padding.

    Lone surrogates have no UTF-8 form and are dropped; the cut may fall inside a code point. Both as in the originals.
    """
    row = [BEGIN_OF_WORD]
    row += [byte + BYTE_OFFSET for byte in word.encode("utf-8", "ignore")[: max_characters_per_word - 2]]
    row += [END_OF_WORD]
    return row + [WORD_PADDING] * (max_characters_per_word - len(row))
