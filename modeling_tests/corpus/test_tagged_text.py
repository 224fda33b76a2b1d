"""Sentences with parts of speech: the one text that holds them, lines and records of files, sets of tags."""

import pytest

from elmo_hf.corpus.tagged_text import (
    TaggedSentence,
    pos_tags_of,
    read_pos_tag_set,
    sentence_of_record,
    sentence_of_tokens,
    tagged_line,
    tagged_record,
    tagged_sentence,
    tagged_text,
    words_of_tagged_text,
)

SENTENCES = [
    TaggedSentence(["the", "cat", "!"], ["DET", "NOUN", None]),
    TaggedSentence(["a\u2028b", "1 000", "\x1f"], [None, "NUM", "X Y"]),
    TaggedSentence(["x"], [None]),
    TaggedSentence([], []),
]


def here() -> str:
    return "file, line 7"


@pytest.mark.parametrize("sentence", SENTENCES)
def test_one_text_and_back(sentence):
    text = tagged_text(sentence)
    again = tagged_sentence(text)
    assert (list(again.words), list(again.tags)) == (list(sentence.words), list(sentence.tags))
    assert words_of_tagged_text(text) == list(sentence.words)
    assert bool(text) == bool(sentence.words)


@pytest.mark.parametrize(
    ("words", "tags", "wrong"),
    [
        (["a", ""], ["X", "Y"], "''"),
        (["a\tb"], ["X"], r"'a\\tb'"),
        (["a\nb"], ["X"], r"'a\\nb'"),
        (["a"], ["X\nY"], r"'X\\nY'"),
        (["a"], ["X\tY"], r"'X\\tY'"),
        ([""], [None], "''"),
    ],
)
def test_what_one_text_cannot_hold(words, tags, wrong):
    with pytest.raises(ValueError, match=f"^{wrong} is no word or tag"):
        tagged_text(TaggedSentence(words, tags))


def test_sentences_are_checked():
    with pytest.raises(ValueError, match="1 tags for the 2 words 'a b': expected one for each word"):
        TaggedSentence(["a", "b"], ["X"])
    with pytest.raises(TypeError, match="words holds None of type NoneType"):
        TaggedSentence([None], ["X"])
    with pytest.raises(TypeError, match="tags holds 3 of type int"):
        TaggedSentence(["a"], [3])
    with pytest.raises(TypeError, match="words is 'a b': expected a list"):
        TaggedSentence("a b", ["X", "Y"])


def test_lines():
    assert tagged_sentence(tagged_line("the_DET  cat_NOUN a_b_X\t!_", "_", here)) == TaggedSentence(
        ["the", "cat", "a_b", "!"], ["DET", "NOUN", "X", None]
    )
    assert tagged_sentence(tagged_line("1//2//NUM", "//", here)) == TaggedSentence(["1//2"], ["NUM"])
    assert tagged_line("", "_", here) == tagged_line(" ", "_", here) == ""
    for line, token in (("the_DET cat", "cat"), ("_DET", "_DET")):
        with pytest.raises(ValueError, match=f"file, line 7: '{token}' is no word with a tag behind '_'"):
            tagged_line(line, "_", here)


def test_words_that_one_text_cannot_hold():
    """Beside their tags in memory, words may hold anything."""
    assert sentence_of_tokens(["New York_N", "a\nb_"], "_", here) == TaggedSentence(["New York", "a\nb"], ["N", None])
    found = sentence_of_record(["a\tb", ""], ["X", ""], ("words", "tags"), here)
    assert found == TaggedSentence(["a\tb", ""], ["X", None])
    with pytest.raises(ValueError, match=r"^file, line 7, columns 'words' and 'tags': 'a\\tb' is no word or tag"):
        tagged_record(["a\tb", ""], ["X", ""], ("words", "tags"), here)
    with pytest.raises(ValueError, match="^file, line 7, columns 'words' and 'tags': 1 tags for the 2 words 'a b'"):
        sentence_of_record(["a", "b"], ["X"], ("words", "tags"), here)


def test_records():
    columns = ("words", "tags")
    for words, tags in ((["a", "b"], ["X", None]), ("a b", ["X", ""]), (["a", "b"], [1, None])):
        text = tagged_record(words, tags, columns, here, ["Y", "X"])
        assert tagged_sentence(text) == TaggedSentence(["a", "b"], ["X", None])
    for words, tags, message in (
        (["a"], ["X", "Y"], "columns 'words' and 'tags': 2 tags for the 1 words"),
        (["a"], [1], "tags holds 1 of type int"),
        ({"a": 1}, ["X"], "column 'words' holds .*: expected a list with one entry for each word"),
        (["a"], None, "column 'tags' holds None: expected a list"),
        (["a\tb"], ["X"], "is no word or tag"),
    ):
        with pytest.raises(ValueError, match=f"file, line 7.*{message}"):
            tagged_record(words, tags, columns, here)
    with pytest.raises(ValueError, match="tags holds 2 of type int"):
        tagged_record(["a"], [2], columns, here, ["Y", "X"])


def test_sets_of_tags(tmp_path):
    assert pos_tags_of(SENTENCES) == ["DET", "NOUN", "NUM", "X Y"]
    with pytest.raises(ValueError, match="the text has no part of speech"):
        pos_tags_of(SENTENCES[2:])
    path = tmp_path / "tags.txt"
    path.write_text("VERB\nNOUN\n")
    assert read_pos_tag_set(path) == ["VERB", "NOUN"]
    path.write_text("VERB\n\nNOUN\n")
    with pytest.raises(ValueError, match=r"tags\.txt: pos_tag_set is .* none of them empty"):
        read_pos_tag_set(path)
    path.write_text("VERB\nVERB\n")
    with pytest.raises(ValueError, match=r"tags\.txt, line 2: the word 'VERB' is listed already"):
        read_pos_tag_set(path)
