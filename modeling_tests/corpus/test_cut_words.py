"""Words that are longer than a model reads: one warning, with their number and share."""

import numpy as np
import pytest

from elmo_hf import ElmoForPreTraining, ElmoForTokenClassification, ElmoTokenizer, embed, embed_corpus, score, tag
from elmo_hf.corpus.cut_words import CutWords
from elmo_hf.tokenizer.characters import ByteSpelling
from modeling_tests.tiny import WORD_INPUT, tiny_config, with_large_weights

# Two lines of 17 characters that begin with the same 16, which take 48 bytes.
CHINESE = ["我" * 16 + "甲", "我" * 16 + "乙", "the cat"]


def made(kind, **overrides):
    tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "the", "cat"], max_characters_per_word=50)
    sizes = {"vocab_size": len(tokenizer), "mask_token_id": tokenizer.mask_token_id, "max_characters_per_word": 50}
    return with_large_weights(kind(tiny_config(**sizes, **overrides))).eval(), tokenizer


@pytest.mark.parametrize(
    "word", ["", "a" * 48, "a" * 49, "é" * 24, "é" * 25, "我" * 16, "我" * 16 + "a", "a" * 47 + "\ud800é"]
)
def test_truncated_word_has_the_row_of_its_prefix(word):
    spelling = ByteSpelling(50)
    data = word.encode("utf-8", "ignore")
    shorter = spelling.rows([data[:48].decode("utf-8", "ignore")])
    is_cut = CutWords(spelling).is_cut(word)
    assert is_cut == (len(data) > 48)
    if is_cut and len(data[:48].decode("utf-8", "ignore").encode()) == 48:
        np.testing.assert_array_equal(spelling.rows([word]), shorter)


def test_counts_and_warning():
    cut = CutWords(ByteSpelling(50))
    assert list(cut.over([["a", "b"]], list)) == [["a", "b"]]  # warnings are errors here unless expected
    cut.look(["x" * 50], 3)
    with pytest.warns(UserWarning, match=r"3.*5.*\(60\.00%\).*48.*max_characters_per_word"):
        cut.tell(" of some")


def test_embed_score_and_tag_warn_once(tmp_path):
    """One warning per call; the vectors of both truncated lines are equal."""
    model, tokenizer = made(ElmoForPreTraining)
    with pytest.warns(UserWarning, match=r"2 of 4 words \(50\.00%\).*48 bytes") as told:
        first, second, _ = embed(CHINESE, model, tokenizer)
    assert len(told) == 1 and np.array_equal(first, second)
    with pytest.warns(UserWarning, match=r"2 of 4 words \(50\.00%\)") as told:
        score(CHINESE, model, tokenizer)
    assert len(told) == 1
    tagger, _ = made(ElmoForTokenClassification, id2label={0: "A", 1: "B"})
    with pytest.warns(UserWarning, match=r"2 of 4 words \(50\.00%\)") as told:
        tag(CHINESE, tagger, tokenizer)
    assert len(told) == 1
    (tmp_path / "text.txt").write_text("\n".join(CHINESE), encoding="utf-8")
    with pytest.warns(UserWarning, match=r"2 of 4 words \(50\.00%\)") as told:
        embed_corpus(tmp_path / "text.txt", tmp_path / "out.h5", model, tokenizer, shard_words=1)
    assert len(told) == 1


@pytest.mark.filterwarnings("error")
def test_word_input_models_do_not_warn():
    model, tokenizer = made(ElmoForPreTraining, **WORD_INPUT)
    assert len(list(embed(CHINESE, model, tokenizer))) == len(CHINESE)
