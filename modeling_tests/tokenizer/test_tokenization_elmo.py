import copy
import json
import multiprocessing
import os
import pickle
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Encoding, Tokenizer
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    default_data_collator,
    pipeline,
)

from elmo_hf import ElmoConfig, ElmoForTokenClassification, ElmoTokenizer
from elmo_hf.pretraining.typography import typography_of
from modeling_tests.character_rows import character_ids_of_word

VOCABULARY = ["<S>", "</S>", "<UNK>", "the", ".", "Mary", "do", "n't", "know", "(", ")", "New", "York", "ist", "naïve"]
TEXTS = ["Mary doesn't know.", "", "the  (Mary)  naïve\n<S> New York", "x" * 200 + " the"]
WORDS = [
    ["Mary", "Hello,", "a b", "", "the"],
    [],
    ["<S>", "a<UNK>b", "</S>", "<UNK>", "<pad>"],
    ["日本", "\ud800", " "],
]

BOS = [259, 257, 260, *[261] * 47]
EOS = [259, 258, 260, *[261] * 47]
PAD = [0] * 50


def letters(*words: str, length: int = 50) -> list[list[int]]:
    return [character_ids_of_word(word, length) for word in words]


@pytest.fixture(scope="module")
def tokenizer() -> ElmoTokenizer:
    return ElmoTokenizer(vocab=VOCABULARY)


@pytest.fixture
def vocab_file(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return path


def state(encoding: Encoding) -> dict:
    return json.loads(encoding.__getstate__())


def same(a, b) -> bool:
    """Two outputs of a tokenizer hold the same values, and the same encodings."""
    if list(a) != list(b):
        return False
    for name in a:
        if str(np.asarray(a[name], dtype=object).tolist()) != str(np.asarray(b[name], dtype=object).tolist()):
            return False
    return list(map(state, a.encodings)) == list(map(state, b.encodings))


# ---- ids, characters, offsets


def test_one_text(tokenizer: ElmoTokenizer) -> None:
    text = "Mary (who doesn't) know."
    out = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, return_length=True)
    words = ["Mary", "(", "who", "does", "n't", ")", "know", "."]
    assert list(out) == [
        "input_ids",
        "attention_mask",
        "character_ids",
        "special_tokens_mask",
        "offset_mapping",
        "length",
    ]
    assert out["input_ids"] == [1, 6, 10, 3, 3, 8, 11, 9, 5, 2]
    assert out["attention_mask"] == [1] * 10
    assert out["character_ids"].dtype == np.int16
    assert out["character_ids"].tolist() == [BOS, *letters(*words), EOS]
    assert out["special_tokens_mask"] == [1, *[0] * 8, 1]
    assert out["length"] == [10]
    assert [text[start:end] for start, end in out["offset_mapping"]] == ["", *words, ""]
    assert out.word_ids() == [None, *range(8), None]
    assert out.sequence_ids() == [None, *[0] * 8, None]
    assert out.tokens() == ["<S>", *words, "</S>"]
    assert out.char_to_token(5) == 2
    assert out.token_to_chars(4) == (10, 14)
    assert out.is_fast
    assert out.n_sequences == 1


def test_without_a_vocabulary() -> None:
    tokenizer = ElmoTokenizer()
    assert tokenizer.get_vocab() == {"<pad>": 0, "<S>": 1, "</S>": 2, "<UNK>": 3, "<mask>": 4}
    assert len(tokenizer) == tokenizer.vocab_size == 5
    out = tokenizer("Mary knows")
    assert out["input_ids"] == [1, 3, 3, 2]
    assert out["character_ids"].tolist() == [BOS, *letters("Mary", "knows"), EOS]
    assert out.tokens() == ["<S>", "Mary", "knows", "</S>"]
    assert tokenizer.model_max_length > 10**20


def test_ids_follow_the_lines_of_the_vocabulary(tokenizer: ElmoTokenizer) -> None:
    assert tokenizer.convert_tokens_to_ids(VOCABULARY) == list(range(1, len(VOCABULARY) + 1))
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id, len(tokenizer)) == (0, 16, 17)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 3)
    assert tokenizer.convert_ids_to_tokens([0, 4, 16]) == ["<pad>", "the", "<mask>"]
    assert tokenizer.convert_tokens_to_ids("The") == 3  # case matters


def test_given_words_stay_whole(tokenizer: ElmoTokenizer) -> None:
    words = ["Mary", "Hello,", "a b", "", "don't", "x<UNK>y", "<UNK>", "<mask>", " ", "日本", "the"]
    out = tokenizer(words, is_split_into_words=True, return_offsets_mapping=True)
    assert out.word_ids() == [None, *range(len(words)), None]
    assert out["input_ids"] == [1, 6, 3, 3, 3, 3, 3, 3, 16, 3, 3, 4, 2]
    assert out["character_ids"].tolist() == [BOS, *letters(*words), EOS]
    assert out["character_ids"][4].tolist()[:3] == [259, 260, 261]  # the empty word
    assert out["offset_mapping"] == [(0, 0), *((0, len(word)) for word in words), (0, 0)]


@pytest.mark.parametrize("special_boundary_words", [True, False])
def test_boundary_words_in_a_text(special_boundary_words: bool) -> None:
    tokenizer = ElmoTokenizer(special_boundary_words=special_boundary_words)
    for given in ("<S> a </S>", ["<S>", "a", "</S>"]):
        out = tokenizer(given, is_split_into_words=isinstance(given, list), return_special_tokens_mask=True)
        assert out["input_ids"] == [1, 1, 3, 2, 2]
        inner = [BOS, *letters("a"), EOS] if special_boundary_words else letters("<S>", "a", "</S>")
        assert out["character_ids"].tolist() == [BOS, *inner, EOS]
        assert out["special_tokens_mask"] == [1, 0, 0, 0, 1]
        assert out.word_ids() == [None, 0, 1, 2, None]
    assert tokenizer("x<S>y", add_special_tokens=False)["input_ids"] == [3, 1, 3]  # apart, as every tag
    tokenizer.pre_tokenization = "whitespace"
    assert tokenizer("x<S>y (<UNK>)", add_special_tokens=False)["character_ids"].tolist() == letters("x<S>y", "(<UNK>)")


def test_other_special_tokens_are_letters_in_a_text(tokenizer: ElmoTokenizer) -> None:
    out = tokenizer("<UNK> <mask> <pad>", padding="max_length", max_length=6)
    assert out["input_ids"] == [1, 3, 16, 0, 2, 0]
    assert out["attention_mask"] == [1, 1, 1, 1, 1, 0]
    assert out["character_ids"].tolist() == [BOS, *letters("<UNK>", "<mask>", "<pad>"), EOS, PAD]


def test_lone_surrogates_are_dropped(tokenizer: ElmoTokenizer) -> None:
    text = "Ma\ud800ry \udfff, the"
    out = tokenizer(text, return_offsets_mapping=True)
    assert out["input_ids"] == [1, 6, 3, 3, 4, 2]
    assert out["character_ids"].tolist() == [BOS, *letters("Mary", "", ",", "the"), EOS]
    assert out["offset_mapping"] == [(0, 0), (0, 5), (6, 7), (7, 8), (9, 12), (0, 0)]
    assert out.tokens() == ["<S>", "Mary", "", ",", "the", "</S>"]
    given = tokenizer(["Ma\ud800ry", "\udfff"], is_split_into_words=True)
    assert given["character_ids"].tolist() == [BOS, *letters("Mary", ""), EOS]


def test_long_words_and_nul(tokenizer: ElmoTokenizer) -> None:
    words = ["x" * 10_000, "a\0b", "\0", "é" * 100]
    assert tokenizer(words, is_split_into_words=True)["character_ids"].tolist() == [BOS, *letters(*words), EOS]
    assert tokenizer(" ".join(words))["character_ids"].tolist() == [BOS, *letters(*words), EOS]
    start = time.process_time()
    tokenizer("x" * 1_000_000)
    tokenizer(["x" * 1_000_000], is_split_into_words=True)
    assert time.process_time() - start < 2  # seconds


@pytest.mark.parametrize("length", [3, 10, 50, 77])
def test_max_characters_per_word(length: int) -> None:
    out = ElmoTokenizer(max_characters_per_word=length)("Mary and naïve", return_tensors="pt", padding=True)
    assert out["character_ids"].shape == (1, 5, length)
    assert out["character_ids"][0, 1:4].tolist() == letters("Mary", "and", "naïve", length=length)


def test_whitespace() -> None:
    tokenizer = ElmoTokenizer(pre_tokenization="whitespace")
    text = " Mary  doesn't\tknow.\u2003(x) \n"
    out = tokenizer(text, return_offsets_mapping=True)
    assert out.tokens() == ["<S>", *text.split(), "</S>"]
    assert [text[a:b] for a, b in out["offset_mapping"][1:-1]] == text.split()
    assert [word for word, _ in tokenizer.words(text)] == text.split()


@pytest.mark.parametrize("pre_tokenization", ["ptb", "whitespace"])
def test_backend_encodes_raw_text_alike(pre_tokenization: str) -> None:
    """The `tokenizers` library with the saved pre-tokenizer is the reference for text without special tokens."""
    tokenizer = ElmoTokenizer(vocab=VOCABULARY, pre_tokenization=pre_tokenization)
    texts = [text for text in TEXTS if "<" not in text] + ["It's the (New York) U.S. naïve, Mr. O'Neill's 日本。"]
    for text in texts:
        ours, theirs = tokenizer(text)[0], tokenizer.backend_tokenizer.encode(text)
        for name in ("ids", "type_ids", "offsets", "word_ids", "sequence_ids", "special_tokens_mask", "attention_mask"):
            assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("add_special_tokens", [True, False])
@pytest.mark.parametrize("split", [True, False])
def test_batch_equals_its_samples(tokenizer: ElmoTokenizer, pair: bool, add_special_tokens: bool, split: bool) -> None:
    batch = WORDS if split else TEXTS
    seconds = batch[::-1] if pair else None
    options = {
        "is_split_into_words": split,
        "add_special_tokens": add_special_tokens,
        "return_offsets_mapping": True,
        "return_token_type_ids": True,
    }
    out = tokenizer(batch, seconds, **options)
    for index, sample in enumerate(batch):
        one = tokenizer(sample, seconds[index] if seconds else None, **options)
        assert {name: np.asarray(value).tolist() for name, value in one.items()} == {
            name: np.asarray(value[index]).tolist() for name, value in out.items()
        }
        assert state(one[0]) == state(out[index])
        # The values computed for the batch equal those of the encoding.
        assert out["input_ids"][index] == out[index].ids
        assert out["attention_mask"][index] == out[index].attention_mask
        spelled = [
            word
            for words in ([sample, seconds[index]] if seconds else [sample])
            for word in (words if split else [word for word, _ in tokenizer.words(words)])
        ]
        rows = [row for row, word in zip(out["character_ids"][index].tolist(), out[index].word_ids) if word is not None]
        expected = letters(*spelled)
        assert rows == [{"<S>": BOS, "</S>": EOS}.get(word, row) for word, row in zip(spelled, expected)]


def test_pairs(tokenizer: ElmoTokenizer) -> None:
    out = tokenizer("the Mary", "know .", return_token_type_ids=True)
    assert out["input_ids"] == [1, 4, 6, 2, 1, 9, 5, 2]
    assert out["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert out["character_ids"].tolist() == [BOS, *letters("the", "Mary"), EOS, BOS, *letters("know", "."), EOS]
    assert out.sequence_ids() == [None, 0, 0, None, None, 1, 1, None]
    assert out.word_ids() == [None, 0, 1, None, None, 0, 1, None]
    assert out.n_sequences == 2
    for given in ([("the Mary", "know .")], [["the Mary", "know ."]]):
        assert tokenizer(given)["input_ids"] == [out["input_ids"]]
    given = [(["the", "Mary"], ["know", "."])]
    assert tokenizer(given, is_split_into_words=True)["input_ids"] == [out["input_ids"]]
    assert tokenizer("a", "")["input_ids"] == [1, 3, 2, 1, 2]
    assert (tokenizer.num_special_tokens_to_add(), tokenizer.num_special_tokens_to_add(pair=True)) == (2, 4)


@pytest.mark.parametrize(("bos", "eos"), [(True, True), (True, False), (False, True), (False, False)])
def test_boundaries_can_be_left_out(bos: bool, eos: bool, tmp_path: Path) -> None:
    tokenizer = ElmoTokenizer(vocab=VOCABULARY, add_bos_token=bos, add_eos_token=eos)
    expected = [*[1] * bos, 4, *[2] * eos]
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, ElmoTokenizer.from_pretrained(tmp_path)):
        assert each("the")["input_ids"] == expected
        assert each("the", "the")["input_ids"] == expected * 2
        assert len(each("the")["character_ids"]) == len(expected)
        assert each.num_special_tokens_to_add() == bos + eos


# ---- truncation, overflow, padding


def test_overflow_has_the_right_characters(tokenizer: ElmoTokenizer) -> None:
    words = [f"word{index}" for index in range(10)]
    out = tokenizer(
        [words, ["a"], words[:7]],
        is_split_into_words=True,
        truncation=True,
        max_length=6,
        stride=1,
        return_overflowing_tokens=True,
        padding=True,
        return_tensors="pt",
    )
    assert out["overflow_to_sample_mapping"].tolist() == [0, 0, 0, 1, 2, 2]
    pieces = [words[0:4], words[3:7], words[6:10], ["a"], words[0:4], words[3:7]]
    for index, piece in enumerate(pieces):
        missing = 4 - len(piece)
        assert out["character_ids"][index].tolist() == [BOS, *letters(*piece), EOS, *[PAD] * missing]
        assert out.word_ids(index)[1 : len(piece) + 1] == [words.index(word) if word in words else 0 for word in piece]
        assert out["attention_mask"][index].tolist() == [1] * (len(piece) + 2) + [0] * missing


def test_truncation_to_model_max_length() -> None:
    tokenizer = ElmoTokenizer(model_max_length=4)
    assert tokenizer("a b c d", truncation=True)["input_ids"] == [1, 3, 3, 2]
    assert len(tokenizer("a b c d", truncation=True, add_special_tokens=False)["input_ids"]) == 4
    assert tokenizer("a", padding="max_length")["attention_mask"] == [1, 1, 1, 0]
    assert ElmoTokenizer()("a b c d", truncation=True, padding="max_length")["input_ids"] == [1, 3, 3, 3, 3, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": True, "max_length": 1}, "max_length is 1.* 2 special tokens"),
        ({"truncation": True, "max_length": 4, "stride": 2}, "stride is 2.* 2 words.*max_length=4"),
        ({"truncation": "only_second", "max_length": 4}, "truncation='only_second'.*text_pair"),
        ({"padding": True, "padding_side": "middle"}, r"padding_side is 'middle'; expected 'left' or 'right'"),
    ],
)
def test_impossible_lengths(tokenizer: ElmoTokenizer, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer("a b c d", **options)


def test_first_sequence_too_short_to_be_cut(tokenizer: ElmoTokenizer) -> None:
    with pytest.raises(ValueError, match="max_length.*6.*7.*1"):
        tokenizer("a", "b c d e f g h i", truncation="only_first", max_length=6)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("framework", [None, "np", "pt"])
def test_padding(side: str, framework: str | None) -> None:
    tokenizer = ElmoTokenizer(vocab=VOCABULARY, padding_side=side)
    sizes = {
        4: {"padding": True},
        6: {"padding": "max_length", "max_length": 6},
        8: {"padding": True, "pad_to_multiple_of": 8},
    }
    for size, options in sizes.items():
        out = tokenizer(["the Mary", ""], return_tensors=framework, return_special_tokens_mask=True, **options)
        short, long = [1, 2], [1, 4, 6, 2]
        for row, ids in enumerate((long, short)):
            fill = size - len(ids)
            order = (lambda real, pad: real + pad) if side == "right" else (lambda real, pad: pad + real)
            rows = [BOS, *letters("the", "Mary"), EOS] if row == 0 else [BOS, EOS]
            assert np.asarray(out["input_ids"][row]).tolist() == order(ids, [0] * fill)
            assert np.asarray(out["attention_mask"][row]).tolist() == order([1] * len(ids), [0] * fill)
            assert np.asarray(out["character_ids"][row]).tolist() == order(rows, [PAD] * fill)
            assert out[row].ids == order(ids, [0] * fill)
            assert len(out.word_ids(row)) == size
        if framework is None:
            assert out["character_ids"][0].dtype == np.int16
        else:
            assert out["character_ids"].shape == (2, size, 50)
            assert str(out["character_ids"].dtype).endswith("int64")
            assert str(out["input_ids"].dtype).endswith("int64")
    opposite = "left" if side == "right" else "right"
    assert tokenizer(["", "a"], padding=True, padding_side=opposite)["input_ids"][0] == (
        [0, 1, 2] if opposite == "left" else [1, 2, 0]
    )


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("framework", [None, "np", "pt"])
@pytest.mark.parametrize("as_lists", [True, False])
def test_padding_afterwards_equals_padding_at_once(side: str, framework: str | None, as_lists: bool) -> None:
    tokenizer = ElmoTokenizer(vocab=VOCABULARY, padding_side=side)
    at_once = tokenizer(TEXTS, padding=True, return_tensors=framework)
    examples = [dict(tokenizer(text)) for text in TEXTS]
    if as_lists:
        for example in examples:
            example["character_ids"] = example["character_ids"].tolist()
    for features in (examples, {name: [example[name] for example in examples] for name in examples[0]}):
        padded = tokenizer.pad(copy.deepcopy(features), return_tensors=framework)
        for name, value in at_once.items():
            assert np.asarray(padded[name]).tolist() == np.asarray(value).tolist()
            assert type(padded[name]) is type(value)
        assert np.asarray(padded["character_ids"][0]).dtype == np.asarray(at_once["character_ids"][0]).dtype


def test_pad_one_example_and_tensors(tokenizer: ElmoTokenizer) -> None:
    one = tokenizer.pad(tokenizer("Mary"), padding="max_length", max_length=5)
    assert one["input_ids"] == [1, 6, 2, 0, 0]
    assert one["character_ids"].tolist() == [BOS, *letters("Mary"), EOS, PAD, PAD]
    assert tokenizer.pad(tokenizer(["", "a"]), padding=False)["input_ids"] == [[1, 2], [1, 3, 2]]
    tensors = [dict(tokenizer(text, return_tensors="pt")) for text in ("Mary", "the know")]
    tensors = [{name: value[0] for name, value in example.items()} for example in tensors]
    padded = tokenizer.pad(tensors)
    assert padded["character_ids"].dtype == torch.int64
    assert padded["character_ids"][0].tolist() == [BOS, *letters("Mary"), EOS, PAD]
    without = tokenizer.pad([{"input_ids": [1, 2]}, {"input_ids": [1, 4, 2]}])
    assert without["input_ids"] == [[1, 2, 0], [1, 4, 2]]
    with pytest.raises(ValueError, match=r"character_ids.*\(2.*50\).*3 input_ids"):
        tokenizer.pad([{"input_ids": [1, 4, 2], "character_ids": [BOS, EOS]}])


def test_ragged_examples_make_no_tensor(tokenizer: ElmoTokenizer) -> None:
    with pytest.raises(ValueError, match="padding=True"):
        tokenizer(["a", "a b"], return_tensors="pt")


# ---- batches, types


def test_empty_batches(tokenizer: ElmoTokenizer) -> None:
    assert dict(tokenizer([])) == {"input_ids": [], "attention_mask": [], "character_ids": []}
    tensors = tokenizer([], return_tensors="pt", padding=True)
    assert tensors["input_ids"].shape == (0, 0)
    assert tensors["character_ids"].shape == (0, 0, 50)
    for empty in (tokenizer(""), tokenizer(" \n"), tokenizer([], is_split_into_words=True)):
        assert empty["input_ids"] == [1, 2]
        assert empty["character_ids"].tolist() == [BOS, EOS]
    assert tokenizer("", add_special_tokens=False)["character_ids"].shape == (0, 50)
    assert tokenizer([[]], is_split_into_words=True, add_special_tokens=False)["input_ids"] == [[]]


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        (5, {}, ValueError, "text input is 5 .*int"),
        (np.array(["a"]), {}, ValueError, r"text input is array\(\['a'\]"),
        (["a", None], {}, ValueError, "item 1.*None"),
        ([["a", "b", "c"]], {}, ValueError, "item 0.*is_split_into_words=True"),
        ("a b", {"is_split_into_words": True}, ValueError, "is_split_into_words=True.*'a b'"),
        ([["a"], "b"], {"is_split_into_words": True}, ValueError, "item 1.*'b'"),
        (["a", None], {"is_split_into_words": True}, TypeError, "str.* None .*NoneType"),
        ([["a"], ["b", 3.5]], {"is_split_into_words": True}, TypeError, "str.* 3.5 .*float"),
        ([["a", ["b"]]], {"is_split_into_words": True}, TypeError, r"words of type str \("),
        ("a", {"text_pair": ["b"]}, ValueError, r"text_pair is \['b'\]; expected a text"),
        (["a"], {"text_pair": "b"}, TypeError, r"text_pair is 'b'; expected a list"),
        (["a"], {"text_pair": ["b", "c"]}, ValueError, "`text`: 1 .*`text_pair`: 2"),
    ],
)
def test_wrong_input(tokenizer: ElmoTokenizer, text, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        tokenizer(text, **options)


def test_output_does_not_depend_on_later_changes_of_the_input(tokenizer: ElmoTokenizer) -> None:
    words = ["Mary", "the"]
    out = tokenizer(words, is_split_into_words=True)
    words.append("x")
    tokenizer.add_bos_token = False
    try:
        assert out.tokens() == ["<S>", "Mary", "the", "</S>"]
    finally:
        tokenizer.add_bos_token = True


def test_tokenize_and_decode(tokenizer: ElmoTokenizer) -> None:
    text = "Mary (naïve) isn't the <S>."
    tokens = tokenizer.tokenize(text)
    assert tokens == ["Mary", "(", "naïve", ")", "is", "n't", "the", "<S>", "."]
    assert tokenizer.encode(text, add_special_tokens=False) == tokenizer.convert_tokens_to_ids(tokens)
    ids = tokenizer("Mary know x")["input_ids"]
    assert tokenizer.decode(ids) == "<S> Mary know <UNK> </S>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Mary know"
    assert tokenizer.batch_decode([ids, ids[1:2]]) == ["<S> Mary know <UNK> </S>", "Mary"]
    assert tokenizer.convert_tokens_to_string(["Mary", "(", "x"]) == "Mary ( x"
    assert tokenizer.get_special_tokens_mask([1, 6, 2], already_has_special_tokens=True) == [1, 0, 1]
    labels = tokenizer("Mary", text_target="the")["labels"]
    assert labels == [1, 4, 2]


def test_model_input_names_select_character_ids(tokenizer: ElmoTokenizer) -> None:
    assert "character_ids" not in ElmoTokenizer(model_input_names=["input_ids"])("a")
    assert "attention_mask" not in tokenizer("a", return_attention_mask=False)


def test_vocabulary_lookup_is_case_sensitive(tokenizer: ElmoTokenizer) -> None:
    assert tokenizer(["mary", "MARY", "Mary"], is_split_into_words=True)["input_ids"][1:-1] == [3, 3, 6]


# ---- added tokens


def test_added_tokens(tmp_path: Path) -> None:
    tokenizer = ElmoTokenizer(vocab=VOCABULARY)
    assert tokenizer("x [E1]y")["input_ids"] == [1, 3, 3, 3, 3, 3, 2]  # searched before they were added
    assert tokenizer.add_tokens(["New York", AddedToken("Zürich", single_word=True)]) == 2
    assert tokenizer.add_special_tokens({"extra_special_tokens": ["[E1]", AddedToken("[E2]", lstrip=True)]}) == 2
    tokenizer.save_pretrained(tmp_path)
    text = "x [E1]y New York, Zürichs Zürich [E2]."
    for each in (tokenizer, ElmoTokenizer.from_pretrained(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        assert len(each) == 21
        assert each.vocab_size == 17
        out = each(text, return_offsets_mapping=True)
        assert out.tokens()[1:-1] == ["x", "[E1]", "y", "New York", ",", "Zürichs", "Zürich", "[E2]", "."]
        assert out["input_ids"][1:-1] == [3, 19, 3, 17, 3, 3, 18, 20, 5]
        assert [text[a:b] for a, b in out["offset_mapping"]][8] == " [E2]"
        assert out["character_ids"].tolist()[1:-1] == letters(*out.tokens()[1:-1])
        assert each("a[E1]b New York", split_special_tokens=True).tokens()[1:-1] == [
            "a",
            "[",
            "E1",
            "]",
            "b",
            "New York",
        ]
        given = each(["New York", "xNew Yorkx", "[E1]"], is_split_into_words=True)
        assert given["input_ids"] == [1, 17, 3, 19, 2]
        assert each.decode([17, 19], skip_special_tokens=True) == "New York"
        assert each.extra_special_tokens == ["[E1]", "[E2]"]


def test_cls_and_sep_tokens_of_the_users(tokenizer: ElmoTokenizer) -> None:
    assert tokenizer.cls_token is None
    ours = ElmoTokenizer(cls_token="<S>", sep_token="[SEP]")
    assert (ours.cls_token_id, ours.sep_token_id, len(ours)) == (1, 5, 6)
    assert ours("a[SEP]b")["input_ids"] == [1, 3, 5, 3, 2]


def test_other_template(tokenizer: ElmoTokenizer) -> None:
    """Tokens added by a template that are not boundaries are spelled."""
    from tokenizers.processors import TemplateProcessing

    ours = copy.deepcopy(tokenizer)
    ours.backend_tokenizer.post_processor = TemplateProcessing(
        single="the $A <S>", pair="$A the $B", special_tokens=[("the", 4), ("<S>", 1)]
    )
    out = ours("the Mary")
    assert out["input_ids"] == [4, 4, 6, 1] == out[0].ids
    assert out["character_ids"].tolist() == [*letters("the", "the", "Mary"), BOS]
    cut = ours("x Mary", truncation=True, max_length=3)
    assert cut["character_ids"].tolist() == [*letters("the", "x"), BOS]
    assert ours("x", "y")["character_ids"].tolist() == letters("x", "the", "y")


# ---- options, vocabularies from corpora


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"vocab": [*VOCABULARY, "the"]}, ValueError, "vocab, entry 15: the word 'the' .* 3[;:]"),
        ({"vocab": VOCABULARY[1:]}, ValueError, "vocab: no entry for bos_token='<S>'"),
        ({"vocab": [*VOCABULARY, "a\0"]}, ValueError, r"'a\\x00' holds a NUL"),
        ({"vocab": [*VOCABULARY, "a\ud800"]}, ValueError, r"'a\\ud800' holds a NUL"),
        ({"vocab": [*VOCABULARY, 5]}, TypeError, "vocab: expected a list"),
        ({"vocab": "words"}, TypeError, "vocab: expected a list"),
        ({"vocab": {"<pad>": 0, "<S>": 1, "</S>": 3}}, ValueError, "vocab: .*ids 0 to 2"),
        ({"vocab": {"<S>": 0, "</S>": 1, "<pad>": 2}}, ValueError, "'<pad>'.*2.*0"),
        ({"vocab": VOCABULARY, "vocab_file": "vocab.txt"}, ValueError, "either vocab_file or vocab"),
        ({"vocab_file": "/nowhere/vocab.txt"}, FileNotFoundError, r"/nowhere/vocab.txt"),
        ({"pre_tokenization": "moses"}, ValueError, r"pre_tokenization is 'moses'"),
        ({"max_characters_per_word": 2}, ValueError, r"max_characters_per_word is 2"),
    ],
)
def test_bad_options(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ElmoTokenizer(**options)


def test_vocabulary_from_a_corpus() -> None:
    tokenizer = ElmoTokenizer(pre_tokenization="ptb", max_characters_per_word=20, model_max_length=7)
    tokenizer.add_special_tokens({"extra_special_tokens": ["[E1]"]})
    corpus = [
        ["the cat isn't the dog.", "[E1] the cat"],
        "the <S> end.",
        [["given words", "the"], ["cat", "", "a\ud800"]],
    ]
    new = tokenizer.train_new_from_iterator(corpus, 10, new_special_tokens=["[E2]"])
    vocabulary = new.get_vocab()
    assert sorted(vocabulary, key=vocabulary.get) == [
        *["<pad>", "<S>", "</S>", "<UNK>"],
        *["the", "cat", ".", "dog", "end"],
        *["<mask>", "[E1]", "[E2]"],
    ]
    assert (new.max_characters_per_word, new.model_max_length, len(new)) == (20, 7, 12)
    assert new("the cat [E2]")["input_ids"] == [1, 4, 5, 11, 2]
    assert len(tokenizer.train_new_from_iterator(corpus, 100, min_frequency=2)) == 5 + 3 + 1
    renamed = tokenizer.train_new_from_iterator(corpus, 6, special_tokens_map={"<S>": "<s>"})
    assert renamed.bos_token == "<s>"
    with pytest.raises(ValueError, match="vocab_size.*4.*5"):
        tokenizer.train_new_from_iterator(corpus, 4)


# ---- saving, copying, other processes

FILES = ["tokenizer.json", "tokenizer_config.json"]
OPTIONS = [
    {},
    {"vocab": VOCABULARY},
    {"vocab": VOCABULARY, "pre_tokenization": "whitespace"},
    {"vocab": VOCABULARY, "special_boundary_words": False, "padding_side": "left"},
    {"vocab": VOCABULARY, "max_characters_per_word": 20, "model_max_length": 5, "truncation_side": "left"},
    {
        "vocab": ["<s>", "</s>", "@@UNKNOWN@@", "the"],
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "@@UNKNOWN@@",
    },
    {"vocab": VOCABULARY, "extra_special_tokens": ["[E1]"], "cls_token": "[CLS]", "add_eos_token": False},
    {"vocab": VOCABULARY, "split_special_tokens": True, "mask_token": "Mary", "pad_token": "<nothing>"},
]


def outputs(tokenizer: ElmoTokenizer) -> list:
    return [
        tokenizer(TEXTS, TEXTS[::-1], padding=True, truncation=True, return_offsets_mapping=True),
        tokenizer(WORDS, is_split_into_words=True, padding="longest"),
        tokenizer("[E1] the [CLS]x", return_tensors="pt"),
    ]


@pytest.mark.parametrize("options", OPTIONS)
def test_save_and_load(options: dict, tmp_path: Path) -> None:
    tokenizer = ElmoTokenizer(**options)
    first, second = tmp_path / "first", tmp_path / "second"
    # Truncation and padding of a call leave no trace in the files.
    tokenizer("a b c", truncation=True, max_length=3, padding="max_length")
    tokenizer.save_pretrained(first)
    loaded = ElmoTokenizer.from_pretrained(first)
    loaded.save_pretrained(second)
    assert sorted(path.name for path in first.iterdir() if path.suffix != ".py") == FILES
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
    assert "vocab" not in json.loads((first / "tokenizer_config.json").read_text())
    assert str(tmp_path) not in (second / "tokenizer_config.json").read_text()
    for other in (
        loaded,
        AutoTokenizer.from_pretrained(first),
        copy.deepcopy(tokenizer),
        copy.copy(tokenizer),
        pickle.loads(pickle.dumps(loaded)),
    ):
        assert type(other) is ElmoTokenizer
        assert other.get_vocab() == tokenizer.get_vocab()
        assert other.special_tokens_map == tokenizer.special_tokens_map
        for ours, theirs in zip(outputs(tokenizer), outputs(other), strict=True):
            assert same(ours, theirs)


def test_options_changed_later_are_saved(tmp_path: Path) -> None:
    tokenizer = ElmoTokenizer(vocab=VOCABULARY)
    tokenizer.pre_tokenization = "whitespace"
    tokenizer.max_characters_per_word = 9
    tokenizer.special_boundary_words = False
    tokenizer.save_pretrained(tmp_path)
    loaded = ElmoTokenizer.from_pretrained(tmp_path)
    assert (loaded.pre_tokenization, loaded.max_characters_per_word, loaded.special_boundary_words) == (
        "whitespace",
        9,
        False,
    )
    assert loaded.backend_tokenizer.encode("a, b", add_special_tokens=False).offsets == [(0, 2), (3, 4)]
    assert ElmoTokenizer.from_pretrained(tmp_path, pre_tokenization="ptb").tokenize("a, b") == ["a", ",", "b"]
    with pytest.raises(ValueError, match="max_characters_per_word is 1"):
        loaded.max_characters_per_word = 1
    with pytest.raises(ValueError, match="pre_tokenization is 'x'"):
        loaded.pre_tokenization = "x"


def test_folder_with_a_vocabulary_file_only(vocab_file: Path, tokenizer: ElmoTokenizer) -> None:
    assert ElmoTokenizer.from_pretrained(vocab_file.parent).get_vocab() == tokenizer.get_vocab()


def test_backend_file_alone(tmp_path: Path, tokenizer: ElmoTokenizer) -> None:
    """Other programs read `tokenizer.json` with the `tokenizers` library."""
    tokenizer.save_pretrained(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert backend.encode("Mary doesn't know.").ids == tokenizer("Mary doesn't know.")["input_ids"]
    assert ElmoTokenizer(tokenizer_object=backend).get_vocab() == tokenizer.get_vocab()


def test_incomplete_or_foreign_files(tmp_path: Path, tokenizer: ElmoTokenizer) -> None:
    tokenizer.save_pretrained(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="tokenizer.json.*vocab.txt"):
        ElmoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"tokenizer\.json: .*char \d+"):
        ElmoTokenizer.from_pretrained(tmp_path)
    foreign = tmp_path / "foreign.json"
    from tokenizers.models import WordLevel

    Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(foreign))
    with pytest.raises(ValueError, match="foreign.json.*WordLevel"):
        ElmoTokenizer(tokenizer_file=foreign)
    with pytest.raises(ValueError, match="nowhere.json.*tokenizer.json"):
        ElmoTokenizer(tokenizer_file=tmp_path / "nowhere.json")


def test_failed_save_leaves_the_old_file(tmp_path: Path, tokenizer: ElmoTokenizer, monkeypatch) -> None:
    ElmoTokenizer().save_pretrained(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".py") == FILES


def test_use_does_not_change_the_pickle() -> None:
    """`datasets` makes its cache keys from it."""
    tokenizer = ElmoTokenizer(vocab=VOCABULARY, extra_special_tokens=["[E1]"])
    before = pickle.dumps(tokenizer)
    outputs(tokenizer)
    assert pickle.dumps(tokenizer) == before


def test_output_survives_pickling_and_copying(tokenizer: ElmoTokenizer) -> None:
    out = tokenizer(TEXTS, padding=True)
    for other in (pickle.loads(pickle.dumps(out)), copy.deepcopy(out)):
        assert other.word_ids(2) == out.word_ids(2)
        assert other["character_ids"][2].tolist() == out["character_ids"][2].tolist()
    assert [encoding.ids for encoding in out.encodings] == out["input_ids"]
    assert [encoding.ids for encoding in out.encodings[1:3]] == out["input_ids"][1:3]


def rows_in_a_worker(tokenizer: ElmoTokenizer) -> list:
    return tokenizer(WORDS, is_split_into_words=True, padding=True)["input_ids"]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_other_processes(tokenizer: ElmoTokenizer, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    workers = 1 if method == "spawn" else 2  # a spawned one imports everything again
    with multiprocessing.get_context(method).Pool(workers) as pool:
        assert pool.map(rows_in_a_worker, [tokenizer] * 2) == [rows_in_a_worker(tokenizer)] * 2


def test_data_loader_workers(tokenizer: ElmoTokenizer) -> None:
    collate = DataCollatorWithPadding(tokenizer)
    features = [dict(tokenizer(text)) for text in TEXTS]
    loader = torch.utils.data.DataLoader(features, batch_size=2, collate_fn=collate, num_workers=2)
    batches = list(loader)
    assert [batch["character_ids"].shape[0] for batch in batches] == [2, 2]
    assert (
        batches[0]["character_ids"][0, :-1].tolist()
        == features[0]["character_ids"].tolist()[: batches[0]["input_ids"].shape[1] - 1]
    )


# ---- datasets, collators, pipelines


def examples(tokenizer: ElmoTokenizer) -> list[dict]:
    features = []
    for words in WORDS:
        out = tokenizer(words, is_split_into_words=True)
        features.append({**out, "labels": [-100 if word is None else word for word in out.word_ids()]})
    return features


@pytest.mark.parametrize("side", ["right", "left"])
def test_collators(side: str) -> None:
    tokenizer = ElmoTokenizer(vocab=VOCABULARY, padding_side=side)
    expected = tokenizer(WORDS, is_split_into_words=True, padding=True, return_tensors="pt")
    without_labels = [
        {name: value for name, value in example.items() if name != "labels"} for example in examples(tokenizer)
    ]
    collated = {
        "padding": DataCollatorWithPadding(tokenizer)(copy.deepcopy(without_labels)),
        "tokens": DataCollatorForTokenClassification(tokenizer)(examples(tokenizer)),
        "language": DataCollatorForLanguageModeling(tokenizer, mlm=False)(copy.deepcopy(without_labels)),
        "seq2seq": DataCollatorForSeq2Seq(tokenizer)(examples(tokenizer)),
    }
    for batch in collated.values():
        for name in ("input_ids", "attention_mask", "character_ids"):
            assert batch[name].tolist() == expected[name].tolist()
            assert batch[name].dtype == torch.int64
    assert (collated["tokens"]["labels"].eq(-100) | expected["attention_mask"].bool()).all()
    assert collated["tokens"]["labels"].tolist() == collated["seq2seq"]["labels"].tolist()
    same_lengths = [dict(tokenizer(text)) for text in ("Mary", "the")]
    assert default_data_collator(same_lengths)["character_ids"].tolist() == [
        [BOS, *letters("Mary"), EOS],
        [BOS, *letters("the"), EOS],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [None, 2])
def test_datasets(tokenizer: ElmoTokenizer, processes: int | None) -> None:
    datasets = pytest.importorskip("datasets")
    words = [words for words in WORDS if "\ud800" not in words]  # Arrow holds UTF-8
    data = datasets.Dataset.from_dict({"tokens": words})
    mapped = data.map(
        lambda batch: tokenizer(batch["tokens"], is_split_into_words=True),
        batched=True,
        num_proc=processes,
        remove_columns=["tokens"],
    )
    assert mapped.features["character_ids"].feature.feature.dtype == "int16"
    expected = tokenizer(words, is_split_into_words=True)
    assert list(mapped["input_ids"]) == expected["input_ids"]
    assert list(mapped["character_ids"]) == [rows.tolist() for rows in expected["character_ids"]]
    for form in (mapped, mapped.with_format("torch"), mapped.with_format("numpy")):
        batch = DataCollatorWithPadding(tokenizer)([form[index] for index in range(len(form))])
        padded = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
        assert batch["character_ids"].tolist() == padded["character_ids"].tolist()


@pytest.fixture(scope="module")
def tagger(tokenizer: ElmoTokenizer) -> ElmoForTokenClassification:
    """A model that tags words by their first letter: capitals are persons."""
    torch.manual_seed(0)
    config = ElmoConfig(
        vocab_size=len(tokenizer),
        character_embedding_size=4,
        character_filters=[[1, 4], [2, 4]],
        projection_size=4,
        cell_size=4,
        num_hidden_layers=1,
        id2label={0: "O", 1: "B-PER", 2: "I-PER"},
        label2id={"O": 0, "B-PER": 1, "I-PER": 2},
    )
    return ElmoForTokenClassification(config).eval()


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_token_classification_pipeline(tokenizer: ElmoTokenizer, tagger, strategy: str) -> None:
    text = "the (Mary) does naïve, Zürich's"
    words = ["the", "(", "Mary", ")", "does", "naïve", ",", "Zürich", "'s"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "Tokenizer does not support real words" among them
        tag = pipeline("token-classification", model=tagger, tokenizer=tokenizer, device="cpu")
        found = tag(text, aggregation_strategy=strategy, ignore_labels=[])
        found_in_words = tag(words, is_split_into_words=True, aggregation_strategy=strategy, ignore_labels=[])
    # No aggregated group splits a word.
    starts = {start for _, (start, _) in tokenizer.words(text)}
    ends = {end for _, (_, end) in tokenizer.words(text)}
    assert {entity["start"] for entity in found} <= starts
    assert {entity["end"] for entity in found} <= ends
    if strategy == "none":
        assert [text[entity["start"] : entity["end"]] for entity in found] == words
        joined = " ".join(words)
        assert [joined[entity["start"] : entity["end"]] for entity in found_in_words[0]] == words


def test_pipeline_does_not_merge_words(tokenizer: ElmoTokenizer, tagger) -> None:
    """With alternating tags, aggregation must not merge "(Mary)" into one word."""
    text = "x(Mary)the"
    tag = pipeline("token-classification", model=tagger, tokenizer=tokenizer, device="cpu")
    offsets = torch.tensor(tokenizer(text, return_offsets_mapping=True)["offset_mapping"])
    ids = torch.tensor(tokenizer(text)["input_ids"])
    scores = np.eye(3)[[0, 0, 1, 1, 1, 0, 0]]
    mask = np.array([1, 0, 0, 0, 0, 0, 1])
    entities = tag.gather_pre_entities(text, ids, scores, offsets, mask, "first")
    assert [entity["is_subword"] for entity in entities] == [False] * 5
    assert [text[entity["start"] : entity["end"]] for entity in entities] == ["x", "(", "Mary", ")", "the"]


def test_pipeline_with_stride(tagger) -> None:
    tokenizer = ElmoTokenizer(vocab=VOCABULARY, model_max_length=6)
    text = " ".join(f"w{index}" for index in range(20))
    tag = pipeline("token-classification", model=tagger, tokenizer=tokenizer, device="cpu", stride=2)
    found = tag(text, aggregation_strategy="first", ignore_labels=[])
    assert found[0]["start"] == 0
    assert found[-1]["end"] == len(text)


# ---- remote code, large vocabularies


def test_code_travels_with_the_files(tmp_path: Path, tokenizer: ElmoTokenizer) -> None:
    """`test_remote_code.py` tests the case without the package."""
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["auto_map"] == {"AutoTokenizer": ["tokenization_elmo.ElmoTokenizer", None]}
    assert {path.name for path in tmp_path.glob("*.py")} == {
        f"{name}.py"
        for name in (
            "character_dictionary characters code_points complete_files encodings installed_package lines pos_tags "
            "pretokenization tokenization_elmo vocabulary"
        ).split()
    }


@pytest.mark.slow
def test_800_000_words(tmp_path: Path) -> None:
    vocabulary = ["<S>", "</S>", "<UNK>", *(f"word{index:06}" for index in range(800_000))]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(vocabulary))
    start = time.process_time()
    tokenizer = ElmoTokenizer(path)
    made = time.process_time()
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = time.process_time()
    loaded = ElmoTokenizer.from_pretrained(tmp_path / "saved")
    print(f"made {made - start:.1f} s, saved {saved - made:.1f} s, loaded {time.process_time() - saved:.1f} s")
    assert time.process_time() - start < 60
    assert (tmp_path / "saved" / "tokenizer_config.json").stat().st_size < 10_000
    for each in (tokenizer, loaded):
        assert len(each) == 800_005
        words = ["word000000", "word799999", "other"]
        assert each(words, is_split_into_words=True)["input_ids"] == [1, 4, 800_003, 3, 2]
    loaded.save_vocabulary(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "vocab.txt").read_text().splitlines() == vocabulary


# ---- against the original programs


def test_characters_of_the_transformer_elmo_reference(reference: Path) -> None:
    """AllenNLP's own indexer; its sentences hold their boundaries as words."""
    folder = reference / "transformer_elmo"
    sentences = json.loads((folder / "sentences.json").read_text())
    expected = np.load(folder / "expected_layers.npz")
    sentences = sentences if isinstance(sentences[0], list) else [sentence.split() for sentence in sentences]
    out = ElmoTokenizer()(
        sentences, is_split_into_words=True, add_special_tokens=False, padding=True, return_tensors="np"
    )
    names = [name for name in expected.files if "char" in name]
    assert (out["character_ids"] == expected[names[0]]).all()


def test_calls_do_not_change_the_pickle_and_the_cache_key():
    """`datasets` derives the cache key of a mapped data set from all attributes."""
    from datasets.fingerprint import Hasher

    tokenizer = ElmoTokenizer(vocab=VOCABULARY)
    tokenizer.add_tokens(["New York"])
    before = pickle.dumps(tokenizer), Hasher.hash(tokenizer)
    tokenizer("Mary in New York")
    tokenizer(["Mary", "in it"], padding=True, truncation=True, max_length=3, return_tensors="pt")
    tokenizer("Mary", split_special_tokens=True)
    assert (pickle.dumps(tokenizer), Hasher.hash(tokenizer)) == before
    assert tokenizer("in New York").tokens()[2] == "New York"


def test_length_of_one_text():
    tokenizer = ElmoTokenizer(vocab=VOCABULARY)
    assert tokenizer("Mary", return_length=True)["length"] == [3]
    assert tokenizer(["Mary", "Mary Mary"], return_length=True)["length"] == [3, 4]


def test_without_boundaries(tmp_path):
    words = [word for word in VOCABULARY if word != "<S>"]
    tokenizer = ElmoTokenizer(vocab=words, bos_token=None)
    assert tokenizer("Mary").tokens() == ["Mary", "</S>"] and tokenizer.bos_token is None
    tokenizer.save_pretrained(tmp_path)
    again = ElmoTokenizer.from_pretrained(tmp_path)
    assert again("Mary <S>") == tokenizer("Mary <S>") and again.bos_token is None
    assert ElmoTokenizer(eos_token=None)("Mary").tokens() == ["<S>", "Mary"]
    neither = ElmoTokenizer(bos_token=None, eos_token=None)
    assert neither(["Mary", "Mary Mary"], padding=True)["input_ids"] == [[1, 0], [1, 1]]
    assert neither.train_new_from_iterator(["Mary met"], 5).convert_tokens_to_ids("Mary") == 2


TYPED = "“I don’t know — it’s ‘fine’…”, he said<S>."
SPELLED = "\" I do n't know -- it 's ' fine ' ... \" , he said <S> ."


def test_character_replacements(tmp_path: Path) -> None:
    """Only raw text is respelled; offsets refer to the original text."""
    vocabulary = ["<S>", "</S>", "<UNK>", '"', "'", "--", "...", "n't", "'s", "I"]
    made = ElmoTokenizer(
        vocab=vocabulary, character_replacements=typography_of(vocabulary), corpus_pre_tokenization="ptb"
    )
    made.save_pretrained(tmp_path)
    for tokenizer in (made, ElmoTokenizer.from_pretrained(tmp_path)):
        assert tokenizer.corpus_pre_tokenization == "ptb"
        found = tokenizer.words(TYPED)
        assert [word for word, _ in found] == SPELLED.split()
        typed = [TYPED[start:end] for _, (start, end) in found]
        assert typed == "“ I do n’t know — it ’s ‘ fine ’ … ” , he said <S> .".split()
        as_text, as_words = tokenizer(TYPED), tokenizer(SPELLED.split(), is_split_into_words=True)
        assert as_text["input_ids"] == as_words["input_ids"]
        np.testing.assert_array_equal(as_text["character_ids"], as_words["character_ids"])
        # Given words are not respelled.
        assert tokenizer("“ — ’s".split(), is_split_into_words=True)["input_ids"][1:-1] == [3, 3, 3]
        # The `tokenizers` library finds the same words with the saved file.
        assert tokenizer.backend_tokenizer.encode(TYPED).ids == as_text["input_ids"]
        tokenizer.add_tokens(["<é>"])
        assert [word for word, _ in tokenizer.words("“<é>—")] == ['"', "<é>", "--"]
    plain = ElmoTokenizer(vocab=vocabulary)
    assert plain.character_replacements is None and plain.corpus_pre_tokenization == "whitespace"
    assert [word for word, _ in plain.words(TYPED)][:4] == ["“", "I", "do", "n’t"]


def test_tokens_to_add(tmp_path):
    """Saved; their word ids are those of any other word."""
    tokenizer = ElmoTokenizer(max_characters_per_word=9, tokens_to_add={"<first>": 1})
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, ElmoTokenizer.from_pretrained(tmp_path)):
        encoding = each([["<first>", "a"]], is_split_into_words=True)
        assert encoding["character_ids"][0][1].tolist() == [259, 2, 260] + [261] * 6
        assert encoding["input_ids"][0][1] == each.unk_token_id
    ElmoTokenizer(max_characters_per_word=9).save_pretrained(tmp_path)
    assert ElmoTokenizer.from_pretrained(tmp_path).tokens_to_add == {}
    symbols = ["<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>", "a"]
    with pytest.raises(ValueError, match="tokens_to_add=.*dictionary"):
        ElmoTokenizer(character_vocabulary=symbols, tokens_to_add={"x": 1})
