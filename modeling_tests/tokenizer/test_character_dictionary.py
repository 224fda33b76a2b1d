"""Words spelled by a dictionary of code points: rows, truncation, files, and the tokenizer that uses it."""

import json
import pickle
import sys
import unicodedata

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, DataCollatorForTokenClassification

from elmo_hf import ElmoTokenizer
from elmo_hf.tokenizer.character_dictionary import MARKS, CharacterDictionary, DictionarySpelling

LETTERS = "abcdefghijklmnopqrstuvwxyzéü中文字日本語は。ÖDßÿكتبن\u0301\u3000.,"
SYMBOLS = [*MARKS, *LETTERS]
WORDS = ["<bos>", "<eos>", "<oov>", "the", "中文", "كتاب", "abcd"]
SENTENCES = [
    "the cat .".split(),
    ["中文", "字", "。"],
    ["日本語", "は", "難しい"],
    ["Die", "Ölpreise", "naß", "Donaudampfschiff"],
    ["كتب", "كتاب", "بن\u0301"],
    ["𝔘", "", "e\u0301", "\u3000", "<pad>", "<bos>"],
]


def row_of(word, length, ids=None):
    """The row as the original makes it, with the marks of the word's ends swapped."""
    ids = ids or {symbol: number for number, symbol in enumerate(SYMBOLS, 1)}
    row = [ids["<eow>"]]
    cut = word[: length - 2]
    row += [ids[cut]] if cut in ("<bos>", "<eos>") else [ids.get(letter, ids["<oov>"]) for letter in cut]
    row.append(ids["<bow>"])
    return row + [ids["<pad>"]] * (length - len(row))


def tokenizer(length=9, **changed):
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<oov>", "pad_token": "<none>"}
    options = {"character_vocabulary": SYMBOLS, "max_characters_per_word": length, **names, **changed}
    return ElmoTokenizer(vocab=options.pop("vocab", WORDS), pre_tokenization="whitespace", **options)


class TestSpelling:
    @pytest.mark.parametrize("length", [3, 6, 9, 20])
    def test_rows(self, length):
        spelling = DictionarySpelling(CharacterDictionary(SYMBOLS), length)
        words = [word for sentence in SENTENCES for word in sentence if word not in ("<bos>", "<eos>")]
        rows = spelling.rows(words)
        assert rows.dtype == np.int16
        assert rows.tolist() == [row_of(word, length) for word in words]
        assert spelling.boundary_rows().tolist() == [
            row_of(mark, max(length, 7))[:3] + row_of("", length)[2:-1] for mark in ("<bos>", "<eos>")
        ]
        assert spelling.rows([]).shape == (0, length)

    def test_every_code_point(self):
        """A dictionary of all letters of ten scripts, against a plain look-up of every code point there is."""
        letters = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Lo"]
        dictionary = CharacterDictionary([*MARKS, *letters])
        assert dictionary.num_characters == len(letters) + 7
        assert dictionary.dtype == np.int32
        ids = {letter: number for number, letter in enumerate(letters, 7)}
        text = "".join(chr(code) for code in range(0, sys.maxunicode, 7))
        assert dictionary.find(text).tolist() == [ids.get(letter, 3) for letter in text]

    def test_a_dictionary_of_marks_alone(self):
        assert CharacterDictionary(MARKS).find("ab").tolist() == [3, 3]
        assert CharacterDictionary(MARKS).find("").tolist() == []

    def test_gaps_and_any_order_of_ids(self):
        ids = {symbol: 2 * number + 5 for number, symbol in enumerate(reversed(SYMBOLS))}
        dictionary = CharacterDictionary(ids)
        assert dictionary.num_characters == max(ids.values()) + 1
        rows = DictionarySpelling(dictionary, 8).rows(["caé", "中q文"])
        assert rows.tolist() == [row_of("caé", 8, ids), row_of("中q文", 8, ids)]


class TestDictionary:
    @pytest.mark.parametrize(
        ("symbols", "message"),
        [
            ([*SYMBOLS, "中"], r"'中' has the ids \d+ and \d+"),
            ([*SYMBOLS, "\u00a0"], r"'\\xa0', id \d+, is whitespace"),
            ([*SYMBOLS, ""], r"'', id \d+, is empty"),
            ([*SYMBOLS, "\ud800"], r"'\\ud800'.*surrogate"),
            (SYMBOLS[1:], "no entry for <bos>; .*<bos>, <eos>, <oov>"),
            ({**{s: n for n, s in enumerate(SYMBOLS)}}, "'<bos>' has the id 0"),
            ({**{s: n for n, s in enumerate(SYMBOLS, 1)}, "q": 3}, "'q' has the id 3.*'<oov>'"),
        ],
    )
    def test_impossible_ones_are_refused(self, symbols, message):
        with pytest.raises(ValueError, match=message):
            CharacterDictionary(symbols)

    @pytest.mark.parametrize(
        ("symbols", "message"),
        [
            ("abc", "'abc'"),
            ([1, 2], "1 has the id 1"),
            ({"a": "1"}, "'a' has the id '1'"),
            ({"a": True}, "'a' .* True"),
        ],
    )
    def test_other_types_are_refused(self, symbols, message):
        with pytest.raises(TypeError, match=f"^character_vocabulary.*{message}"):
            CharacterDictionary(symbols)

    def test_files(self, tmp_path):
        path = tmp_path / "characters.json"
        dictionary = CharacterDictionary({symbol: number for number, symbol in enumerate(SYMBOLS, 4)})
        dictionary.save(path)
        assert CharacterDictionary.load(path).ids == dictionary.ids
        assert "中" in path.read_text(encoding="utf-8")
        assert [entry.name for entry in tmp_path.iterdir()] == ["characters.json"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"{", "not valid JSON"),
            (b"\xff", "not valid JSON"),
            (b"[1]", "holds a list"),
            (b'{"a": 1, "a": 2}', "lists 'a' twice"),
            (b'{"a": 1}', "no entry for <bos>"),
        ],
    )
    def test_damaged_files_are_refused(self, content, message, tmp_path):
        path = tmp_path / "characters.json"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"characters.json.*{message}"):
            CharacterDictionary.load(path)


class TestTokenizer:
    @pytest.mark.parametrize("length", [6, 9, 20])
    def test_texts_of_five_languages(self, length):
        made = tokenizer(length)
        batch = made(SENTENCES, is_split_into_words=True, padding=True, return_tensors="pt")
        ids = {word: number for number, word in enumerate(WORDS, 1)}
        for index, sentence in enumerate(SENTENCES):
            rows = batch["character_ids"][index][batch["attention_mask"][index].bool()].tolist()
            expected = [row_of(word, length) for word in sentence]
            assert rows[1:-1] == expected
            # Boundaries are never truncated.
            assert [row[1] for row in (rows[0], rows[-1])] == [1, 2]
            assert [row[2] for row in (rows[0], rows[-1])] == [MARKS.index("<bow>") + 1] * 2
            # The looked-up form is the spelled one; padding is not a word of the file.
            forms = [word[: length - 2] for word in sentence]
            found = batch["input_ids"][index][batch["attention_mask"][index].bool()].tolist()
            assert found == [1, *(ids.get(form, 3) for form in forms), 2]
        assert (batch["character_ids"][batch["attention_mask"] == 0] == 0).all()

    def test_a_long_word_is_looked_up_as_it_is_cut(self):
        made = tokenizer(6)
        encoding = made(["abcdefgh", "abc"], is_split_into_words=True)
        assert encoding["input_ids"][1:3] == [7, 3]
        assert encoding.tokens()[1:3] == ["abcdefgh", "abc"]
        assert tokenizer(20)(["abcdefgh"], is_split_into_words=True)["input_ids"][1] == 3

    def test_word_truncated_to_a_boundary_is_a_boundary(self):
        rows = tokenizer(7)([["<bos>x", "<bos>", "<eos>yz"]], is_split_into_words=True)["character_ids"][0].tolist()
        assert rows[1] == rows[2] == rows[0]
        assert rows[3] == rows[4]
        plain = tokenizer(9, special_boundary_words=False)(["<bos>"], is_split_into_words=True)["character_ids"]
        assert plain[1].tolist() != plain[0].tolist()

    def test_saves_and_reloads(self, tmp_path):
        made = tokenizer(9)
        made.save_pretrained(tmp_path)
        again = AutoTokenizer.from_pretrained(tmp_path)
        assert type(again) is ElmoTokenizer
        assert again.character_vocabulary == made.character_vocabulary
        assert again.num_characters == len(SYMBOLS) + 1
        assert again.get_vocab() == made.get_vocab()
        for loaded in (again, pickle.loads(pickle.dumps(made))):
            ours, theirs = (each(SENTENCES, is_split_into_words=True) for each in (made, loaded))
            assert ours["input_ids"] == theirs["input_ids"]
            for mine, other in zip(ours["character_ids"], theirs["character_ids"], strict=True):
                assert np.array_equal(mine, other)

    def test_missing_or_damaged_dictionary_is_refused(self, tmp_path):
        tokenizer(9).save_pretrained(tmp_path)
        path = tmp_path / "character_vocabulary.json"
        path.write_text("[]")
        with pytest.raises(ValueError, match="character_vocabulary.json: holds a list"):
            ElmoTokenizer.from_pretrained(tmp_path)
        path.unlink()
        with pytest.raises(ValueError, match="'code_points'.*character_vocabulary.json"):
            ElmoTokenizer.from_pretrained(tmp_path)

    def test_byte_tokenizer_saves_no_dictionary(self, tmp_path):
        ElmoTokenizer().save_pretrained(tmp_path)
        assert not (tmp_path / "character_vocabulary.json").exists()
        assert json.loads((tmp_path / "tokenizer_config.json").read_text())["character_units"] == "bytes"
        assert ElmoTokenizer().character_vocabulary is None
        assert ElmoTokenizer().num_characters == 262

    def test_contradictions_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="character_units is 'bytes'"):
            tokenizer(character_units="bytes")
        with pytest.raises(ValueError, match="character_units.*'letters'"):
            ElmoTokenizer(character_units="letters")
        with pytest.raises(ValueError, match="character_vocabulary.*character_vocabulary_file"):
            tokenizer(character_vocabulary_file=tmp_path / "x.json")

    def test_collators_pad_large_ids(self):
        many = [*MARKS, *(chr(0x10000 + number) for number in range(40_000))]
        made = tokenizer(6, character_vocabulary=many)
        texts = (["a"], ["\U00010000", "\U00010001"])
        rows = made([chr(0x10000 + 39_999)], is_split_into_words=True)["character_ids"]
        assert rows.dtype == np.int32 and rows.max() == 40_006
        examples = [{**made(words, is_split_into_words=True), "labels": [0] * (len(words) + 2)} for words in texts]
        batch = DataCollatorForTokenClassification(made)(examples)
        assert batch["character_ids"].shape == (2, 4, 6)
        assert batch["character_ids"].dtype == torch.int64
        assert (batch["character_ids"][0, 3] == 0).all()
        assert batch["character_ids"][1, 1, 1] == many.index("\U00010000") + 1

    def test_a_new_vocabulary_keeps_the_dictionary(self):
        made = tokenizer(9).train_new_from_iterator([SENTENCES], 12)
        assert made.character_vocabulary == tokenizer(9).character_vocabulary
        assert made.bos_token == "<bos>"
