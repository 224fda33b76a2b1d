"""Ids and character rows of running text, through a table that is cleared when full."""

import itertools

import numpy as np
import pytest

from elmo_hf import ElmoTokenizer
from elmo_hf.corpus.word_encoder import RuleNotice, WordEncoder, line_splitter, word_splitter
from elmo_hf.tokenizer.characters import character_ids_of_boundaries
from modeling_tests.character_rows import character_ids_of_word

VOCABULARY = {"<pad>": 0, "<S>": 1, "</S>": 2, "<UNK>": 3, "the": 4, "café": 5, "<mask>": 6}


@pytest.mark.parametrize("cached_words", [1, 7, 50, 10_000])
def test_result_does_not_depend_on_the_cache_size(cached_words):
    generator = np.random.default_rng(0)
    encoder = WordEncoder(VOCABULARY, max_characters_per_word=8, cached_words=cached_words)
    for _ in range(60):
        words = [f"w{n}" for n in generator.integers(0, 90, generator.integers(0, 30))] + ["the", "café", "<S>", "</S>"]
        ids, characters = encoder.encode(words)
        assert ids.tolist() == [VOCABULARY.get(word, 3) for word in words]
        boundaries = dict(zip(("<S>", "</S>"), character_ids_of_boundaries(8).tolist()))
        assert characters.tolist() == [boundaries.get(word, character_ids_of_word(word, 8)) for word in words]
        assert np.array_equal(encoder.encode(words)[0], ids)


def test_a_dictionary_of_characters():
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<oov>", "pad_token": "<none>"}
    tokenizer = ElmoTokenizer(
        vocab=["<oov>", "<bos>", "<eos>", "<pad>", "the", "中文字", "<bos>x"[:5] + "z"],
        character_vocabulary=["<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>", *"thex中文字"],
        max_characters_per_word=7,
        pre_tokenization="whitespace",
        **names,
    )
    encoder = WordEncoder.from_tokenizer(tokenizer)
    # Truncated to five characters: a word of the vocabulary, a boundary, and an unknown word.
    words = ["the", "中文字", "thexx中", "<bos>x", "<eos>", "<pad>", "<none>", "", "théx"]
    expected = tokenizer(words, is_split_into_words=True, add_special_tokens=False)
    ids, characters = encoder.encode(words)
    # The padding token written in a text is an unknown word to a language model.
    expected["input_ids"][6] = tokenizer.unk_token_id
    assert ids.tolist() == expected["input_ids"]
    assert np.array_equal(characters, expected["character_ids"])
    boundaries = encoder.encode([encoder.bos_token, encoder.eos_token])[1]
    whole = tokenizer([], is_split_into_words=True)["character_ids"]
    assert np.array_equal(boundaries, whole)


def test_no_word_and_one_word():
    encoder = WordEncoder(VOCABULARY)
    assert encoder.encode([])[1].shape == (0, 50)
    assert encoder.encode(["the"])[0].tolist() == [4]


def test_special_tokens_in_a_text():
    encoder = WordEncoder(VOCABULARY)
    assert encoder.encode(["<pad>", "<mask>", "<UNK>", "<S>"])[0].tolist() == [3, 3, 3, 1]
    plain = WordEncoder(VOCABULARY, special_boundary_words=False)
    ids, characters = plain.encode([plain.bos_token, "<S>"])
    assert ids.tolist() == [1, 1]
    assert characters[1].tolist() == character_ids_of_word("<S>", 50)
    assert characters[0].tolist() != characters[1].tolist()


def test_lone_surrogates_are_removed_from_words():
    ids, characters = WordEncoder(VOCABULARY).encode(["caf\ud800é"])
    assert ids.tolist() == [5]
    assert characters[0].tolist() == character_ids_of_word("café", 50)


@pytest.mark.parametrize("special_boundary_words", [True, False])
def test_special_tokens_beside_lone_surrogates_are_unknown_words(special_boundary_words):
    """One id from every way of tokenizing: 3 for `<mask>\\udfff` and `<pad>\\ud808`."""
    tokenizer = ElmoTokenizer(
        vocab=["<S>", "</S>", "<UNK>", "cat"], special_boundary_words=special_boundary_words, max_characters_per_word=9
    )
    encoder = WordEncoder.from_tokenizer(tokenizer)
    words = ("<mask>", "<pad>", "<S>", "</S>", "<UNK>", "cat")
    for word, half in itertools.product(words, ("\udfff", "\ud808", "\ud800")):
        for spelled in (word + half, half + word, word[:2] + half + word[2:]):
            expected = 4 if word == "cat" else 3
            given = tokenizer([spelled], is_split_into_words=True, add_special_tokens=False)
            ids, characters = encoder.encode([spelled])
            assert given["input_ids"] == ids.tolist() == [expected], spelled
            assert np.array_equal(given["character_ids"], characters)
            assert given["attention_mask"] == [1]


def test_a_vocabulary_without_special_tokens_is_refused():
    with pytest.raises(ValueError, match="2 words.*</S>, <UNK>"):
        WordEncoder({"<S>": 1, "the": 2})


def test_the_encoder_of_a_tokenizer_agrees_with_it():
    tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "the"], max_characters_per_word=7)
    encoder = WordEncoder.from_tokenizer(tokenizer)
    words = ["the", "unknowable", "<UNK>", "<S>"]
    expected = tokenizer(words, is_split_into_words=True, add_special_tokens=False)
    ids, characters = encoder.encode(words)
    assert ids.tolist() == expected["input_ids"]
    assert np.array_equal(characters, expected["character_ids"])


def test_splitters():
    assert word_splitter("whitespace")(" a  b\u00a0c.\t") == ["a", "b", "c."]
    assert word_splitter("ptb")("Don't stop.") == ["Do", "n't", "stop", "."]
    with pytest.raises(ValueError, match="expected 'ptb'"):
        word_splitter("words")
    with_quotes = word_splitter("ptb", {"“": "``", "’": "'"})
    assert with_quotes("“Don’t") == ["``", "Do", "n't"]
    assert with_quotes(["“Don’t", "a b"]) == ["“Don’t", "a b"]


def test_lines_use_the_pre_tokenization_of_the_corpus(caplog):
    """A model stores two rules: for the lines of its corpus, and for raw text."""
    vocabulary = ["<S>", "</S>", "<UNK>", '"', "n't"]
    lines = ["do n't stop", ["don't"], "don't “stop”", "don't"]
    for corpus, raw in (("whitespace", "ptb"), ("ptb", "whitespace")):
        tokenizer = ElmoTokenizer(
            vocab=vocabulary,
            pre_tokenization=raw,
            corpus_pre_tokenization=corpus,
            character_replacements={"“": '"', "”": '"'},
        )
        expected = {"whitespace": ["don't", "“stop”"], "ptb": ["do", "n't", '"', "stop", '"']}
        for asked, used in ((None, corpus), ("ptb", "ptb"), ("whitespace", "whitespace")):
            assert line_splitter(tokenizer, asked)(lines[2]) == expected[used]
            assert line_splitter(tokenizer, asked)(lines[1]) == ["don't"]
            caplog.clear()
            with caplog.at_level("INFO", logger="elmo_hf"):
                assert list(RuleNotice(tokenizer, used).over(lines)) == lines
            assert [record.levelname for record in caplog.records] == ["INFO"]
            other = "ptb" if used == "whitespace" else "whitespace"
            told = caplog.records[0].getMessage()
            assert f"by the rule '{used}'" in told and "don't “stop”" in told and f"--pre_tokenization {other}" in told
    same = ElmoTokenizer(vocab=vocabulary, pre_tokenization="whitespace")
    caplog.clear()
    with caplog.at_level("INFO", logger="elmo_hf"):
        list(RuleNotice(same, "whitespace").over(lines))
        list(RuleNotice(tokenizer, "ptb").over(lines[:2]))  # no difference
    assert not caplog.records
