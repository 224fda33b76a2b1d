import numpy as np
import pytest

from elmo_hf.tokenizer.characters import (
    NUM_CHARACTERS,
    ByteSpelling,
    character_ids_of_boundaries,
    character_ids_of_words,
    check_max_characters_per_word,
)
from modeling_tests.character_rows import character_ids_of_word

PADDING = 261
WORDS = [
    "",
    "a",
    "Hello",
    "naïve",
    "日本語",
    "🙂🙂",
    "\0\x7f",
    "x" * 47,
    "x" * 48,
    "x" * 49,
    "é" * 30,
    "a\ud800b",
    "\udfff",
]


def row(*ids: int, length: int = 50) -> list[int]:
    return [*ids, *[PADDING] * (length - len(ids))]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        # AllenNLP's own examples of ELMoCharacterMapper, and bilm-tf's ids plus one.
        ("one", row(259, 112, 111, 102, 260)),
        ("", row(259, 260)),
        ("ﬂ", row(259, 0xEF + 1, 0xAC + 1, 0x82 + 1, 260)),
        ("🙂", row(259, 0xF0 + 1, 0x9F + 1, 0x99 + 1, 0x82 + 1, 260)),
        ("\0", row(259, 1, 260)),
        ("a\ud800b", row(259, 98, 99, 260)),
        ("\udc80", row(259, 260)),
        ("<S>", row(259, ord("<") + 1, ord("S") + 1, ord(">") + 1, 260)),
        ("<UNK>", row(259, *(byte + 1 for byte in b"<UNK>"), 260)),
        ("x" * 48, [259, *[ord("x") + 1] * 48, 260]),
        ("x" * 10_000, [259, *[ord("x") + 1] * 48, 260]),
        # 47 bytes fit before the last code point, of which only the first byte does.
        ("x" * 47 + "é", [259, *[ord("x") + 1] * 47, 0xC3 + 1, 260]),
    ],
)
def test_rows_equal_the_original_programs(word: str, expected: list[int]) -> None:
    assert character_ids_of_word(word, 50) == expected
    assert character_ids_of_words([word], 50).tolist() == [expected]


@pytest.mark.parametrize("length", [3, 4, 7, 50, 200])
def test_many_words_at_once_equal_one_by_one(length: int) -> None:
    rng = np.random.default_rng(0)
    words = WORDS + ["".join(map(chr, rng.integers(1, 0x11FFF, size=rng.integers(60)))) for _ in range(200)]
    rows = character_ids_of_words(words, length)
    assert rows.dtype == np.int16
    assert rows.shape == (len(words), length)
    assert rows.tolist() == [character_ids_of_word(word, length) for word in words]
    assert rows.min() >= 1
    assert rows.max() < NUM_CHARACTERS


def test_no_words() -> None:
    assert character_ids_of_words([], 50).shape == (0, 50)


def test_boundaries() -> None:
    assert character_ids_of_boundaries(50).tolist() == [row(259, 257, 260), row(259, 258, 260)]
    assert character_ids_of_boundaries(3).tolist() == [[259, 257, 260], [259, 258, 260]]


@pytest.mark.parametrize("length", [2, 0, -1, 50.0, "50", True, None])
def test_length_of_a_row_out_of_range(length: object) -> None:
    with pytest.raises(ValueError, match="max_characters_per_word.*expected.*3"):
        check_max_characters_per_word(length)  # type: ignore[arg-type]


def test_tokens_to_add():
    spelling = ByteSpelling(9, {"<first>": 1, "<S>": 3})
    rows = spelling.rows(["<first>", "cat", "<first>", "<S>"])
    assert rows.dtype == np.int16 and (rows[0] == rows[2]).all()
    assert rows[0].tolist() == [259, 2, 260] + [261] * 6
    assert rows[1].tolist() == character_ids_of_word("cat", 9)
    assert rows[3, 1] == 4
    for character in (-1, 261, True, "a"):
        with pytest.raises(ValueError, match=f"tokens_to_add.*{character!r}.*'x'.*0"):
            ByteSpelling(9, {"x": character})
