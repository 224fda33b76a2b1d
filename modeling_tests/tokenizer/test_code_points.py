"""Code points of words in one row per sentence, for all ways of calling and padding the tokenizer."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, DataCollatorForTokenClassification, DataCollatorWithPadding

from elmo_hf import ElmoTokenizer
from elmo_hf.tokenizer.code_points import CodePoints, padded

SET = ["M", "a", "é", "\n", "\u00a0", "😀"]
WORDS = ["<S>", "</S>", "<UNK>", "maria", "b"]
# 1 follows each word, boundaries included.
ROWS = {
    "Maa é😀": [1, 3, 4, 4, 1, 5, 8, 1, 1],
    "b": [1, 2, 1, 1],
    "": [1, 1],
}


def tokenizer(**options):
    return ElmoTokenizer(vocab=WORDS, code_point_set=SET, pre_tokenization="whitespace", **options)


@pytest.fixture(params=["right", "left"])
def words(request):
    return tokenizer(padding_side=request.param)


def expected(texts, side):
    longest = max(len(ROWS[text]) for text in texts)
    fill = [[0] * (longest - len(ROWS[text])) for text in texts]
    return [
        ROWS[text] + zeros if side == "right" else zeros + ROWS[text] for text, zeros in zip(texts, fill, strict=True)
    ]


class TestSet:
    def test_ids_follow_the_order(self):
        assert CodePoints(SET).ids == {symbol: number for number, symbol in enumerate(SET, 3)}
        assert CodePoints(SET).num_code_points == tokenizer().num_code_points == len(SET) + 2
        assert tokenizer().code_point_set == SET

    def test_no_length_limit_and_no_boundary_marks(self):
        assert CodePoints(["x"]).spell("x" * 500 + "y") == [3] * 500 + [2, 1]

    @pytest.mark.parametrize(
        ("symbols", "message"),
        [
            (["a", "a"], "'a'.*twice"),
            (["ab"], "'ab', no single"),
            ([""], "'', no single"),
            (["\ud800"], r"'\\ud800', no single"),
        ],
    )
    def test_symbols_that_are_refused(self, symbols, message):
        with pytest.raises(ValueError, match=f"code_point_set holds .*{message}"):
            CodePoints(symbols)

    def test_text_in_place_of_a_list_is_refused(self):
        with pytest.raises(TypeError, match="code_point_set.*'abc'"):
            CodePoints("abc")

    @pytest.mark.parametrize("side", ["right", "left"])
    def test_padding(self, side):
        found = padded([[1, 2, 1], [], np.array([4])], side)
        assert found.tolist() == (
            [[1, 2, 1], [0, 0, 0], [4, 0, 0]] if side == "right" else [[1, 2, 1], [0, 0, 0], [0, 0, 4]]
        )
        assert padded([], side).shape == (0, 0)


class TestCalls:
    def test_lists_keep_their_lengths(self, words):
        assert words("b")["code_point_ids"] == ROWS["b"]
        assert words(list(ROWS))["code_point_ids"] == list(ROWS.values())

    @pytest.mark.parametrize("kind", ["pt", "np"])
    def test_tensors(self, words, kind):
        found = words(list(ROWS), padding=True, return_tensors=kind)["code_point_ids"]
        assert found.tolist() == expected(list(ROWS), words.padding_side)
        assert found.dtype in (torch.int64, np.int64)
        # Equal numbers of words, but different lengths.
        assert words(["b", "é"], return_tensors=kind)["code_point_ids"].shape == (2, 4)

    def test_given_words_truncation_and_pairs(self, words):
        given = words(["Maa é", "b"], is_split_into_words=True)["code_point_ids"]
        assert given == [1, 3, 4, 4, 2, 5, 1, 2, 1, 1]
        assert words("Maa é😀 b", truncation=True, max_length=3)["code_point_ids"] == [1, 3, 4, 4, 1, 1]
        assert words("b", "é")["code_point_ids"] == [1, 2, 1, 1, 1, 5, 1, 1]
        chunks = words("b é b", truncation=True, max_length=3, return_overflowing_tokens=True)["code_point_ids"]
        assert chunks == [[1, 2, 1, 1], [1, 5, 1, 1], [1, 2, 1, 1]]

    def test_one_word_for_every_position_of_the_mask(self, words):
        batch = words(list(ROWS), padding=True, return_tensors="pt")
        assert torch.equal(batch["code_point_ids"].eq(1).sum(1), batch["attention_mask"].sum(1))

    def test_written_out_boundaries_are_letters(self, words):
        assert words("<S>")["code_point_ids"] == [1, 2, 2, 2, 1, 1]

    def test_other_tokenizers_return_none(self):
        assert "code_point_ids" not in ElmoTokenizer()("b")
        assert ElmoTokenizer().num_code_points == 0


class TestPaddingAfterwards:
    def test_collators(self, words):
        features = [{**words(text), "labels": [0] * len(words(text)["input_ids"])} for text in ROWS]
        batch = DataCollatorForTokenClassification(words)(features)
        assert batch["code_point_ids"].tolist() == expected(list(ROWS), words.padding_side)
        for feature in features:
            feature["labels"] = 1
        batch = DataCollatorWithPadding(words)(features)
        assert batch["code_point_ids"].tolist() == expected(list(ROWS), words.padding_side)

    def test_a_batch_and_one_example(self, words):
        assert words.pad(words(list(ROWS)))["code_point_ids"] == expected(list(ROWS), words.padding_side)
        one = words.pad(words("b"), padding="max_length", max_length=9)
        assert one["code_point_ids"] == ROWS["b"] and len(one["input_ids"]) == 9
        other = "left" if words.padding_side == "right" else "right"
        found = words.pad(words(list(ROWS)), padding_side=other, return_tensors="np")["code_point_ids"]
        assert found.tolist() == expected(list(ROWS), other)


class TestLowerCase:
    def test_word_ids_are_lowercased_and_characters_are_not(self):
        words = tokenizer(lowercase_lookup=True)
        batch = words("Maria MARIA B <UNK> İ")
        assert batch["input_ids"][1:-1] == [4, 4, 5, 3, 3]
        assert batch["code_point_ids"][:7] == [1, 3, 4, 2, 2, 4, 1]
        assert batch.tokens()[1:3] == ["Maria", "MARIA"]
        assert tokenizer()("Maria")["input_ids"] == [1, 3, 2]

    def test_written_out_boundaries_keep_boundary_characters(self):
        plain, lower = ElmoTokenizer()("<S>"), ElmoTokenizer(lowercase_lookup=True)("<S>")
        assert np.array_equal(plain["character_ids"], lower["character_ids"])

    def test_a_new_vocabulary_is_in_lower_case(self):
        words = tokenizer(lowercase_lookup=True).train_new_from_iterator(["Maria maria MARIA b"], 7)
        assert words("mariA")["input_ids"][1] == words.convert_tokens_to_ids("maria") != words.unk_token_id


def test_saved_and_loaded(tmp_path):
    words = tokenizer(lowercase_lookup=True)
    words.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.code_point_set == SET and again.lowercase_lookup
    assert again("Maria é😀")["code_point_ids"] == words("Maria é😀")["code_point_ids"]
    assert again.model_input_names == [*ElmoTokenizer.model_input_names, "code_point_ids"]
