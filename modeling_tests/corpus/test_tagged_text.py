"""Sentences with POS tags: their encoding as one text, lines and records of files, tag sets."""

import pytest

from elmo_hf.corpus.tagged_text import (
    TaggedSentence,
    is_blank,
    pos_tags_of,
    read_pos_tag_set,
    sentence_of,
    sentence_of_record,
    sentence_of_tokens,
    tagged_sentence,
    tagged_text,
    text_of,
)

SENTENCES = [
    TaggedSentence(["the", "cat", "!"], ["DET", "NOUN", None]),
    TaggedSentence(["a\u2028b", "1 000", "\x1f"], [None, "NUM", "X Y"]),
    TaggedSentence(["x"], [None]),
    TaggedSentence([], []),
    TaggedSentence(["a", ""], ["X", "Y"]),
    TaggedSentence(["a\tb", "c\nd", "\n"], ["X\nY", "X\tY", None]),
    TaggedSentence([""], [None]),
]


def here() -> str:
    return "file, line 7"


@pytest.mark.parametrize("sentence", SENTENCES)
def test_tagged_sentence_round_trip(sentence):
    text = tagged_text(sentence)
    again = tagged_sentence(text)
    assert (list(again.words), list(again.tags)) == (list(sentence.words), list(sentence.tags))
    assert bool(text) == bool(sentence.words) != is_blank(sentence)


def test_the_older_form_is_read():
    """Saved positions have the older form; text that fits it is still encoded in it."""
    sentence = TaggedSentence(["the", "1 000"], ["DET", None])
    assert tagged_text(sentence) == "the\n1 000\tDET\n"
    assert tagged_sentence("the\n1 000\tDET\n") == sentence


def test_text_and_word_list_round_trip():
    for sentence in ("a  b", "", " ", "[a]", ["a b", "", "\n", "\ud800"], [""], ["a"]):
        assert sentence_of(text_of(sentence), False) == sentence
    assert sentence_of(text_of("\n[1]"), False).strip() == "[1]"  # a text never looks like a list
    assert text_of([]) == ""
    assert list(map(is_blank, ["", " \u2028", "a", [], [""], ["a"]])) == [True, True, False, True, False, False]


def test_sentences_are_checked():
    with pytest.raises(ValueError, match="1 tags.*2 words 'a b'"):
        TaggedSentence(["a", "b"], ["X"])
    with pytest.raises(TypeError, match="words.*None.*NoneType"):
        TaggedSentence([None], ["X"])
    with pytest.raises(TypeError, match="tags.* 3 .*int"):
        TaggedSentence(["a"], [3])
    with pytest.raises(TypeError, match="words.*'a b'"):
        TaggedSentence("a b", ["X", "Y"])


def test_tokens():
    def of(line, separator="_"):
        return sentence_of_tokens(line.split(), separator, here)

    assert of("the_DET  cat_NOUN a_b_X\t!_") == TaggedSentence(["the", "cat", "a_b", "!"], ["DET", "NOUN", "X", None])
    assert of("1//2//NUM", "//") == TaggedSentence(["1//2"], ["NUM"])
    assert of("") == of(" ") == TaggedSentence([], [])
    for line, token in (("the_DET cat", "cat"), ("_DET", "_DET")):
        with pytest.raises(ValueError, match=f"7.*'{token}'.*'_'"):
            of(line)
    assert sentence_of_tokens(["New York_N", "a\nb_"], "_", here) == TaggedSentence(["New York", "a\nb"], ["N", None])


def test_records():
    columns = ("words", "tags")
    for words, tags in ((["a", "b"], ["X", None]), ("a b", ["X", ""]), (["a", "b"], [1, None])):
        assert sentence_of_record(words, tags, columns, here, ["Y", "X"]) == TaggedSentence(["a", "b"], ["X", None])
    assert sentence_of_record(["a\tb", ""], ["X", ""], columns, here) == TaggedSentence(["a\tb", ""], ["X", None])
    for words, tags, message in (
        (["a"], ["X", "Y"], "columns 'words' and 'tags': 2 tags.* 1 words"),
        (["a"], [1], "tags.* 1 .*int"),
        ({"a": 1}, ["X"], "column 'words'.*{'a': 1}"),
        (["a"], None, "column 'tags'.* None"),
    ):
        with pytest.raises(ValueError, match=f"file, line 7.*{message}"):
            sentence_of_record(words, tags, columns, here)
    with pytest.raises(ValueError, match="tags.* 2 .*int"):
        sentence_of_record(["a"], [2], columns, here, ["Y", "X"])


def test_sets_of_tags(tmp_path):
    assert pos_tags_of(SENTENCES[:4]) == ["DET", "NOUN", "NUM", "X Y"]
    with pytest.raises(ValueError, match="pos_column.*pos_separator"):
        pos_tags_of(SENTENCES[2:4])
    path = tmp_path / "tags.txt"
    path.write_text("VERB\nNOUN\n")
    assert read_pos_tag_set(path) == ["VERB", "NOUN"]
    path.write_text("VERB\n\nNOUN\n")
    with pytest.raises(ValueError, match=r"tags\.txt.*pos_tag_set"):
        read_pos_tag_set(path)
    path.write_text("VERB\nVERB\n")
    with pytest.raises(ValueError, match=r"tags\.txt.*2.*'VERB'"):
        read_pos_tag_set(path)
