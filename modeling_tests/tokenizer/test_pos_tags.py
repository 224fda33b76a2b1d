"""POS tags: alignment, padding, pairs, truncation, collators, and a tagger's predictions."""

import pytest
import torch
from transformers import AutoTokenizer, DataCollatorForTokenClassification, DataCollatorWithPadding

from elmo_hf import ElmoForMultipleChoice, ElmoForTokenClassification, ElmoModel, ElmoTokenizer
from elmo_hf.collators import ElmoDataCollatorForMultipleChoice
from elmo_hf.model.modeling_elmo import MODELS
from elmo_hf.tokenizer.pos_tags import PosTags
from modeling_tests.tiny import tiny_config, with_large_weights

TAGS = ["DET", "NOUN", "VERB", "PUNCT"]
WORDS = [["the", "dog", "ran", "."], ["dogs"], []]
TAGGED = [["DET", "NOUN", "VERB", "PUNCT"], [None], []]


@pytest.fixture(scope="module")
def tokenizer():
    return ElmoTokenizer(max_characters_per_word=9, pos_tag_set=TAGS)


def encode(tokenizer, words=WORDS, tags=TAGGED, **options):
    return tokenizer(words, pos_tags=tags, is_split_into_words=True, **options)


class TestTags:
    def test_ids(self):
        assert PosTags(TAGS).ids_of(["VERB", None, "DET"], ["a", "b", "c"]) == [3, 0, 1]

    def test_others_are_refused(self):
        with pytest.raises(ValueError, match="'ADJ'.*pos_tag_set.*DET.*NOUN.*VERB.*PUNCT"):
            PosTags(TAGS).ids_of(["ADJ"], ["a"])
        with pytest.raises(ValueError, match="2 pos_tags.*1.*'a'"):
            PosTags(TAGS).ids_of(["DET", "DET"], ["a"])
        with pytest.raises(ValueError, match="lists 'a' twice"):
            PosTags(["a", "b", "a"])
        with pytest.raises(ValueError, match=r"pos_tag_set is \[\]"):
            PosTags([])
        with pytest.raises(ValueError, match=r"pos_tag_set is \['a', ''\]"):
            PosTags(["a", ""])
        with pytest.raises(TypeError, match="pos_tag_set is 'DET'"):
            PosTags("DET")
        with pytest.raises(TypeError, match=r"pos_tag_set is \[1\]"):
            ElmoTokenizer(pos_tag_set=[1])


class TestTokenizer:
    def test_tags_align_with_their_words(self, tokenizer):
        encoding = encode(tokenizer)
        assert encoding["pos_tag_ids"] == [[0, 1, 2, 3, 4, 0], [0, 0, 0], [0, 0]]
        assert [len(ids) for ids in encoding["input_ids"]] == [6, 3, 2]
        assert encode(tokenizer, add_special_tokens=False)["pos_tag_ids"] == [[1, 2, 3, 4], [0], []]
        assert encode(tokenizer, WORDS[0], TAGGED[0])["pos_tag_ids"] == [0, 1, 2, 3, 4, 0]

    @pytest.mark.parametrize("side", ["right", "left"])
    def test_padding_has_no_tags(self, tokenizer, side):
        encoding = encode(tokenizer, padding=True, padding_side=side, return_tensors="pt")
        expected = [[0, 1, 2, 3, 4, 0], [0] * 6, [0] * 6]
        assert encoding["pos_tag_ids"].tolist() == expected
        assert encoding["pos_tag_ids"].dtype == torch.int64
        assert encoding["pos_tag_ids"].shape == encoding["input_ids"].shape

    def test_pairs(self, tokenizer):
        expected = [0, 1, 2, 0, 0, 3, 0]
        options = {"is_split_into_words": True}
        words, tags = (["the", "dog"], ["ran"]), (["DET", "NOUN"], ["VERB"])
        assert tokenizer(*words, pos_tags=tags[0], pos_tags_pair=tags[1], **options)["pos_tag_ids"] == expected
        assert tokenizer([words], pos_tags=[tags], **options)["pos_tag_ids"] == [expected]
        as_columns = tokenizer([words[0]], [words[1]], pos_tags=[tags[0]], pos_tags_pair=[tags[1]], **options)
        assert as_columns["pos_tag_ids"] == [expected]

    @pytest.mark.parametrize("side", ["right", "left"])
    def test_truncation_and_overflow(self, side):
        made = ElmoTokenizer(pos_tag_set=TAGS, truncation_side=side)
        options = {"truncation": True, "max_length": 5, "stride": 1, "return_overflowing_tokens": True}
        encoding = encode(made, **options)
        for ids, tags, index in zip(
            encoding["input_ids"], encoding["pos_tag_ids"], encoding["overflow_to_sample_mapping"], strict=True
        ):
            assert len(ids) == len(tags)
            del index
        by_word = {"the": 1, "dog": 2, "ran": 3, ".": 4, "dogs": 0, "<S>": 0, "</S>": 0}
        for row, tags in enumerate(encoding["pos_tag_ids"]):
            assert tags == [by_word[token] for token in encoding.tokens(row)]
        assert len(encoding["pos_tag_ids"]) == 4

    def test_without_tags_there_is_no_column(self, tokenizer):
        assert "pos_tag_ids" not in tokenizer(WORDS, is_split_into_words=True)
        assert "pos_tag_ids" not in tokenizer("the dog")
        assert "pos_tag_ids" in tokenizer.model_input_names
        assert "pos_tag_ids" not in ElmoTokenizer().model_input_names

    def test_saved_with_the_tokenizer(self, tokenizer, tmp_path):
        tokenizer.save_pretrained(tmp_path)
        again = AutoTokenizer.from_pretrained(tmp_path)
        assert again.pos_tag_set == TAGS
        assert encode(again)["pos_tag_ids"] == encode(tokenizer)["pos_tag_ids"]
        assert again.model_input_names == tokenizer.model_input_names

    def test_mismatched_tags_are_refused(self, tokenizer):
        with pytest.raises(ValueError, match="'ADJ'.*pos_tag_set"):
            encode(tokenizer, [["a"]], [["ADJ"]])
        with pytest.raises(ValueError, match="1 pos_tags.*2.*'a b'"):
            encode(tokenizer, [["a", "b"]], [["DET"]])
        with pytest.raises(ValueError, match=r"pos_tags.*1.*\[1\].*2.*\[1.*1\]"):
            encode(tokenizer, [["a"], ["b"]], [["DET"]])
        with pytest.raises(ValueError, match=r"pos_tags.* 1 samples of \[1\].* 1 samples of \[1\]"):
            encode(tokenizer, ["a"], [["DET"]])
        with pytest.raises(ValueError, match="pos_tags .*is_split_into_words=True"):
            tokenizer("a b", pos_tags=["DET", "NOUN"])
        with pytest.raises(ValueError, match=r"pos_tags.*pos_tag_set=\["):
            encode(ElmoTokenizer())
        with pytest.raises(ValueError, match="pos_tags_pair without pos_tags"):
            tokenizer(["a"], ["b"], pos_tags_pair=["DET"], is_split_into_words=True)


class TestCollators:
    @pytest.mark.parametrize("side", ["right", "left"])
    def test_the_column_is_padded(self, side):
        made = ElmoTokenizer(max_characters_per_word=9, pos_tag_set=TAGS, padding_side=side)
        columns = encode(made)
        examples = [{name: values[index] for name, values in columns.items()} for index in range(3)]
        expected = encode(made, padding=True, return_tensors="pt")
        batch = DataCollatorWithPadding(made)(examples)
        assert batch.keys() == expected.keys()
        for name, values in expected.items():
            assert torch.equal(batch[name], values), name
        labeled = [{**example, "labels": [1] * len(example["input_ids"])} for example in examples]
        batch = DataCollatorForTokenClassification(made)(labeled)
        assert torch.equal(batch["pos_tag_ids"], expected["pos_tag_ids"])
        assert made.pad(examples[0], padding="max_length", max_length=8)["pos_tag_ids"].count(0) == 4

    def test_choices(self, tokenizer):
        example = {**encode(tokenizer, WORDS[:2], TAGGED[:2]), "label": 1}
        batch = ElmoDataCollatorForMultipleChoice(tokenizer)([example, example])
        assert batch["pos_tag_ids"].tolist() == [[[0, 1, 2, 3, 4, 0], [0] * 6]] * 2

    def test_a_column_of_another_length_is_refused(self, tokenizer):
        with pytest.raises(ValueError, match="pos_tag_ids.*1.*3 input_ids"):
            tokenizer.pad({"input_ids": [1, 2, 3], "pos_tag_ids": [1]})


@pytest.mark.slow
def test_an_unmodified_trainer_feeds_the_column(tokenizer, tmp_path):
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    data = Dataset.from_dict({"words": WORDS[:2] * 4, "tags": TAGGED[:2] * 4}).map(
        lambda batch: {
            **tokenizer(batch["words"], pos_tags=batch["tags"], is_split_into_words=True),
            "labels": [[-100, *[1] * len(words), -100] for words in batch["words"]],
        },
        batched=True,
    )
    config = tiny_config(vocab_size=len(tokenizer), num_pos_tags=len(TAGS), num_labels=2)
    model = ElmoForTokenClassification(config)
    table = model.elmo.embeddings.pos_tags.pos_tag_embeddings.weight
    before = table.detach().clone()
    options = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "learning_rate": 0.1}
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, save_strategy="no", **options
    )
    collator = DataCollatorForTokenClassification(tokenizer)
    Trainer(model, arguments, train_dataset=data, data_collator=collator, processing_class=tokenizer).train()
    # Every tag that occurs has been trained, and the row of no tag is still zero.
    assert (table != before).any(dim=1).tolist() == [False, True, True, True, True]


def test_predictions_of_a_tagger_as_input(tokenizer):
    """Predictions of a tagger are inputs of another model."""
    config = tiny_config(vocab_size=len(tokenizer), id2label=dict(enumerate(TAGS)))
    tagger = with_large_weights(ElmoForTokenClassification(config)).eval()
    sentences = WORDS[:2]
    batch = tokenizer(sentences, is_split_into_words=True, padding=True, return_tensors="pt")
    best = tagger(**batch).logits.argmax(-1)
    tags = [
        [tagger.config.id2label[int(best[index, place])] for place in range(1, len(words) + 1)]
        for index, words in enumerate(sentences)
    ]
    tagged = encode(tokenizer, sentences, tags, padding=True, return_tensors="pt")
    assert tagged["pos_tag_ids"][0, 1:5].tolist() == (best[0, 1:5] + 1).tolist()
    reader = ElmoModel(tiny_config(vocab_size=len(tokenizer), num_pos_tags=len(TAGS))).eval()
    assert reader(**tagged).last_hidden_state.shape == (2, 6, 8)
    with pytest.raises(ValueError, match="got none of pos_tag_ids"):
        reader(**batch)


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_every_model_reads_pos_tags(tokenizer, cls):
    config = tiny_config(vocab_size=len(tokenizer) + 4, num_pos_tags=len(TAGS))
    model = with_large_weights(cls(config)).eval()
    words = (["the", "dogs"], ["ran", "."])
    found = []
    for tags in ((["DET", "NOUN"], ["VERB", "PUNCT"]), (["DET", "VERB"], ["VERB", "PUNCT"])):
        batch = encode(tokenizer, [words], [tags], return_tensors="pt")
        if cls is ElmoForMultipleChoice:
            batch = {name: values.unsqueeze(0) for name, values in batch.items()}  # one choice
        found.append(model(**batch).to_tuple()[0])
    assert found[0].shape == found[1].shape and not torch.allclose(*found)
    with pytest.raises(ValueError, match="got none of pos_tag_ids"):
        model(**{name: values for name, values in batch.items() if name != "pos_tag_ids"})
