"""The dictionary of a corpus's characters."""

import pytest

from elmo_hf.pretraining import Corpus, TaggedSentence, build_character_dictionary
from elmo_hf.tokenizer.character_dictionary import MARKS

TEXT = ["猫 sat sat", "on 猫 a mat", "ß <S>"]


def build(sentences=TEXT, **options):
    return build_character_dictionary(Corpus.from_sentences(sentences), progress=False, **options)


def test_code_points_by_falling_count():
    dictionary, coverage = build()
    assert coverage == 1
    symbols = list(dictionary.ids)
    assert symbols[:6] == list(MARKS) and list(dictionary.ids.values()) == list(range(1, len(symbols) + 1))
    # a 4, t 3, s 2, 猫 2, then once each, in the order of the code points
    assert symbols[6:] == ["a", "t", "s", "猫", "<", ">", "S", "m", "n", "o", "ß"]


def test_minimum_count_and_maximum_size():
    dictionary, coverage = build(min_count=2)
    assert list(dictionary.ids)[6:] == ["a", "t", "s", "猫"]
    assert coverage == pytest.approx(11 / 18)
    assert list(build(max_size=8)[0].ids) == [*MARKS, "a", "t"]
    assert build(num_processes=3)[0].ids == build()[0].ids


def test_words_of_tagged_sentences():
    tagged = [TaggedSentence(["1 0", "a\u3000"], ["NUM", "X"])]
    assert list(build(tagged)[0].ids)[6:] == ["0", "1", "a", "\u3000"]  # whitespace has no line in a dictionary file


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_count": 0}, "min_count=0"),
        ({"max_size": 6}, "max_size=6.* 7"),
        ({"min_count": 5}, "character.* 5 times.*min_count.* 4"),
        ({"num_processes": 0}, "num_processes=0"),
        ({"pre_tokenization": "none"}, "pre_tokenization.*'none'"),
        ({"sentences": [" "]}, "given sentences.*no word"),
    ],
)
def test_impossible_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
