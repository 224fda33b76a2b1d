"""`tag` against the tagger itself, sentence by sentence."""

import pytest
import torch

from elmo_hf import ElmoForTokenClassification, ElmoModel, ElmoTokenizer, tag, tag_iter
from elmo_hf.pretraining import Corpus, TaggedSentence, pos_tags_of
from modeling_tests.tiny import tiny_config, with_large_weights

LABELS = ["NOUN", "VERB", "DET"]
SENTENCES = ["The cat sat.", ["on"], "", ["the", "mat", "zebra"], [], "a b c d e f g h " * 5, ["mat"]]


@pytest.fixture
def tokenizer():
    return ElmoTokenizer(max_characters_per_word=9)


def tagger(**overrides):
    torch.manual_seed(0)
    config = tiny_config(id2label=dict(enumerate(LABELS)), label2id={name: n for n, name in enumerate(LABELS)})
    config = type(config).from_dict({**config.to_dict(), **overrides})
    return with_large_weights(ElmoForTokenClassification(config)).train()


def one_by_one(model, tokenizer):
    found = []
    for sentence in SENTENCES:
        words = sentence if isinstance(sentence, list) else [word for word, _ in tokenizer.words(sentence)]
        batch = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        found.append(TaggedSentence(words, [LABELS[label] for label in model.eval().predict(**batch)[0]]))
    model.train()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"use_crf": True}], ids=["words", "field"])
@pytest.mark.parametrize("batch_words", [4, 20, 2048])
def test_the_taggers_own_labels(tokenizer, options, batch_words):
    model = tagger(**options, task_dropout=0.5)
    expected = one_by_one(model, tokenizer)
    assert len({label for sentence in expected for label in sentence.tags}) > 1
    assert tag(SENTENCES, model, tokenizer, batch_words=batch_words) == expected
    assert model.training
    assert list(tag_iter((each for each in SENTENCES), model, tokenizer, batch_words=batch_words, window=1)) == expected


def test_model_folder_and_result_as_a_corpus(tokenizer, tmp_path):
    model = tagger()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = tag(SENTENCES, tmp_path)
    assert found == one_by_one(model, tokenizer)
    corpus = Corpus.from_sentences(found)
    assert [list(sentence.words) for sentence in corpus] == [list(sentence.words) for sentence in found]
    assert pos_tags_of(corpus) == sorted({label for sentence in found for label in sentence.tags})


@pytest.mark.slow
def test_a_stream_is_read_window_by_window(tokenizer):
    read = []

    def sentences():
        for number in range(50):
            read.append(number)
            yield ["cat"] * 8

    stream = tag_iter(sentences(), tagger(), tokenizer, batch_words=20, window=2)
    assert len(next(stream).words) == 8
    assert len(read) == 4
    assert len(list(stream)) == 49


def test_refusals(tokenizer):
    with pytest.raises(TypeError, match="model.*ElmoModel.*ElmoForTokenClassification"):
        tag(["a"], ElmoModel(tiny_config()), tokenizer)
    with pytest.raises(TypeError, match="sentence 1.*5.*int"):
        tag(["a", 5], tagger(), tokenizer)
    for name in ("batch_words", "window"):
        with pytest.raises(ValueError, match=f"{name}=0.*1"):
            tag(["a"], tagger(), tokenizer, **{name: 0})
    with pytest.raises(ValueError, match="num_pos_tags=2"):
        tag(["a"], tagger(num_pos_tags=2), tokenizer)
    assert tag([], tagger(), tokenizer) == []
