"""Taggers and classifiers over documents in chunks, compared with the whole documents."""

import weakref

import numpy as np
import pytest
import torch

from elmo_hf import (
    ElmoConfig,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoTokenizer,
    classify_document,
    tag,
    tag_document,
)
from elmo_hf.inference.chunks import Chunks, Spool
from elmo_hf.inference.documents import read_features
from elmo_hf.inference.tagging import best_tags_of_chunks
from elmo_hf.model.crf import CrfScores, best_tags
from modeling_tests.tiny import BOTH_INPUTS, TRANSFORMER, tiny_config, with_large_weights

VOCABULARY = ["<S>", "</S>", "<UNK>", *"the cat sat on a mat , . !".split()]
LABELS = ["O", "B-X", "I-X", "B-Y", "I-Y"]
SHAPES = {
    "biLM alone": {},
    "one layer": {"task_lstm_size": 5},
    "two layers, both places": {"task_lstm_size": 5, "task_lstm_layers": 2, "elmo_at": ["input", "output"]},
    "three layers": {"task_lstm_size": 4, "task_lstm_layers": 3, "word_vector_size": 3},
    "without ELMo": {"task_lstm_size": 5, "word_vector_size": 6, "elmo_at": []},
    "words alone": {"word_vector_size": 6, "elmo_at": []},
    "words and characters": BOTH_INPUTS,
    "highways over words only": {
        "task_lstm_size": 5,
        "task_lstm_layers": 2,
        "task_encoder": "highway_lstm",
        "words_only": True,
        "pre_encoder_layers": [[7, "relu"]],
        "classifier_layers": [[6, "tanh"]],
    },
    "characters of the task": {
        "task_lstm_size": 5,
        "task_character_size": 4,
        "num_task_characters": 12,
        "task_character_filters": [[2, 5]],
    },
}


@pytest.fixture
def tokenizer():
    return ElmoTokenizer(
        vocab=VOCABULARY, max_characters_per_word=9, padding_side="left", code_point_set=list("acehmnostß")
    )


def model_of(kind, labels=LABELS, **overrides):
    fields = tiny_config(vocab_size=len(VOCABULARY) + 2, mask_token_id=13, cell_clip=3.0, projection_clip=3.0).to_dict()
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: n for n, name in enumerate(labels)}}
    model = with_large_weights(kind(ElmoConfig.from_dict({**fields, **names, **overrides})), 0.7).eval()
    torch.nn.init.normal_(model.classifier.weight, std=3.0)
    torch.nn.init.zeros_(model.classifier.bias)
    return model


def document(count, seed=0):
    return np.random.default_rng(seed).choice([*VOCABULARY[3:], "Straße"], size=count).tolist()


@torch.no_grad()
def emissions_of_whole(model, tokenizer, words):
    features, _, _ = model.encode_words(**tokenizer([words], is_split_into_words=True, return_tensors="pt"))
    return model.classifier(model.hidden_layers(features))[0, 1:-1]


@torch.no_grad()
def emissions_by_chunks(model, tokenizer, words, size):
    with Chunks(tokenizer, words, size) as chunks:
        parts = [chunk.features[chunk.is_word] for chunk in read_features(model, tokenizer, chunks)]
    return model.classifier(model.hidden_layers(torch.cat(parts)))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_scores_of_words(tokenizer, shape):
    model, words = model_of(ElmoForTokenClassification, **shape), document(11)
    whole = emissions_of_whole(model, tokenizer, words)
    for size in (1, 4, 11):
        found = emissions_by_chunks(model, tokenizer, words, size)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-6 * max(1.0, float(whole.abs().max())))
    if shape.get("task_lstm_size"):  # chunks by themselves have others
        alone = torch.cat([emissions_of_whole(model, tokenizer, words[i : i + 4]) for i in range(0, 11, 4)])
        assert (alone - whole).abs().max() > 1e-3


@pytest.mark.samples(2)
@pytest.mark.parametrize("crf", [{}, {"use_crf": True}, {"use_crf": True, "tag_scheme": "BIO"}], ids=str)
@pytest.mark.parametrize("shape", [{"word_vector_size": 6}, {"task_lstm_size": 5}], ids=["words", "one layer"])
def test_tags(tokenizer, shape, crf):
    model = model_of(ElmoForTokenClassification, **shape, **crf)
    words = document(20)
    with torch.no_grad():
        expected = model.predict(**tokenizer([words], is_split_into_words=True, return_tensors="pt"))[0]
    expected = [LABELS[label] for label in expected]
    assert len(set(expected)) > 1
    for size in (7, 19):
        parts = list(tag_document(iter(words), model, tokenizer, chunk_words=size))
        assert [word for part in parts for word in part.words] == words
        assert [label for part in parts for label in part.tags] == expected
        assert len(parts) == -(-20 // size)
    # `tag` also reads sentences longer than `batch_words` in chunks.
    found = tag([words[:3], words, []], model.train(), tokenizer, batch_words=9)
    assert list(found[1].tags) == expected and [len(each.words) for each in found] == [3, 20, 0]
    assert model.training


def test_crf_is_decoded_across_chunk_borders():
    """Labels that would be wrong for a chunk read alone."""
    torch.manual_seed(1)
    emissions, size = torch.randn(60, 4), 7
    scores = CrfScores(torch.randn(4), 3 * torch.randn(4, 4), 3 * torch.randn(4))
    mask = torch.ones(1, 60, dtype=torch.bool)
    whole = best_tags(emissions[None], mask, scores)[0]
    found = torch.cat(list(best_tags_of_chunks(emissions.split(size), scores)))
    assert torch.equal(found, whole)
    alone = torch.cat([best_tags(part[None], mask[:, : len(part)], scores)[0] for part in emissions.split(size)])
    assert not torch.equal(alone, whole)
    (empty,) = best_tags_of_chunks([emissions[:0]], scores)
    assert empty.shape == (0,)


@pytest.mark.slow
def test_crf_over_a_long_document():
    """Scores are sums over all words; rounding must not hide their differences."""
    torch.manual_seed(0)
    pattern = torch.tensor([[100.0, 100.01]]).repeat(5000, 1)
    scores = CrfScores(*map(torch.zeros, ((2,), (2, 2), (2,))))
    assert all(labels.eq(1).all() for labels in best_tags_of_chunks(pattern.split(10), scores))


WAYS = [["mean"], ["mean", "max", "min", "attention"]]


@pytest.mark.slow
@pytest.mark.parametrize("pooling", WAYS, ids=" ".join)
@pytest.mark.parametrize("shape", [{}, {"task_lstm_size": 5, "maxout_sizes": [6, 4]}], ids=["biLM alone", "layers"])
def test_classes(tokenizer, shape, pooling):
    model = model_of(ElmoForSequenceClassification, ["good", "bad", "ugly"], pooling=pooling, **shape)
    words = [*document(9), "<S>", *document(9, 1)]  # a word like a boundary is not pooled
    encoding = tokenizer([words], is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**encoding).logits[0]
    cases = {"single_label_classification": logits.softmax(-1), "multi_label_classification": logits.sigmoid()}
    for model.config.problem_type, expected in {**cases, "regression": logits}.items():
        for size in (4, 18):
            found = classify_document(words, model, tokenizer, chunk_words=size)
            assert list(found) == ["good", "bad", "ugly"]
            values = torch.tensor(list(found.values()))
            torch.testing.assert_close(values, expected, rtol=0, atol=1e-6 * max(1.0, float(logits.abs().max())))


def test_documents_without_words(tokenizer):
    model = model_of(ElmoForSequenceClassification, ["good", "bad"], task_lstm_size=5)
    with torch.no_grad():
        for words in ([], ["<S>"] * 5):
            expected = model(**tokenizer([words], is_split_into_words=True, return_tensors="pt")).logits[0].softmax(-1)
            found = classify_document(words, model.train(), tokenizer, chunk_words=2)
            torch.testing.assert_close(torch.tensor(list(found.values())), expected)
            assert model.training
            model.eval()
    (empty,) = tag_document([], model_of(ElmoForTokenClassification, use_crf=True), tokenizer)
    assert (list(empty.words), list(empty.tags)) == ([], [])
    # Words of the text that look like boundaries have tags.
    (part,) = tag_document(["a", "<S>", "cat"], model_of(ElmoForTokenClassification), tokenizer)
    assert len(part.tags) == 3


@pytest.mark.slow
def test_folders_and_texts(tokenizer, tmp_path):
    tagger = model_of(ElmoForTokenClassification, task_lstm_size=5)
    tagger.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = "The cat (a cat) sat on the mat."
    parts = list(tag_document(text, tmp_path, chunk_words=4))
    (whole,) = tag([text], tagger, tokenizer)
    assert [label for part in parts for label in part.tags] == list(whole.tags)
    classifier = model_of(ElmoForSequenceClassification, ["good", "bad"])
    classifier.save_pretrained(tmp_path / "c")
    tokenizer.save_pretrained(tmp_path / "c")
    found = classify_document(text, tmp_path / "c", chunk_words=3)
    assert found == pytest.approx(classify_document(text, classifier, tokenizer), abs=1e-6)


@pytest.mark.slow
def test_memory_is_that_of_a_chunk(monkeypatch):
    """Memory holds the features of one chunk; words, states, scores and labels are on disk."""
    monkeypatch.setattr("elmo_hf.inference.chunks._MEMORY_BYTES", 64)
    spools, features = [], []
    model = model_of(ElmoForTokenClassification, task_lstm_size=5, use_crf=True)
    tokenizer = ElmoTokenizer(vocab=VOCABULARY, max_characters_per_word=9)
    begin, read = Spool.__init__, model.read_words

    def watched(self):
        begin(self)
        spools.append(self)

    def watched_read(**inputs):
        found = read(**inputs)
        assert sum(reference() is not None for reference in features) <= 1
        features.append(weakref.ref(found[0]))
        return found

    monkeypatch.setattr(Spool, "__init__", watched)
    monkeypatch.setattr(model, "read_words", watched_read)
    words = (VOCABULARY[3 + number % 9] for number in range(100))
    for number, part in enumerate(tag_document(words, model, tokenizer, chunk_words=10)):
        assert len(part.tags) == 10
        if number == 0:
            assert len(spools) == 5 and all(spool._file._rolled for spool in spools), "in files"
    assert len(features) == 3 * 10  # sweeps over the chunks
    assert all(spool._file.closed for spool in spools)


def test_refusals(tokenizer):
    tagger, classifier = ElmoForTokenClassification, ElmoForSequenceClassification
    for call, kind in ((tag_document, tagger), (classify_document, classifier)):
        with pytest.raises(ValueError, match="encoder_type='transformer'"):
            call(["a"], model_of(kind, **TRANSFORMER), tokenizer)
        with pytest.raises(ValueError, match="scalar_mix_layer_norm='words'"):
            call(["a"], model_of(kind, scalar_mix_layer_norm="words"), tokenizer)
        with pytest.raises(ValueError, match="integrator_size=4"):
            call(["a"], model_of(kind, task_lstm_size=3, integrator_size=4), tokenizer)
        with pytest.raises(ValueError, match="num_pos_tags=2"):
            call(["a"], model_of(kind, num_pos_tags=2), tokenizer)
        with pytest.raises(ValueError, match="chunk_words=0.*1"):
            call(["a"], model_of(kind), tokenizer, chunk_words=0)
        with pytest.raises(TypeError, match="word 1.*5.*int"):
            list(call(["a", 5], model_of(kind), tokenizer))
    with pytest.raises(ValueError, match="sentence_pairs=True"):
        classify_document(["a"], model_of(classifier, sentence_pairs=True), tokenizer)
    # These models still read whole sentences.
    whole = tag([["cat"] * 9], model_of(tagger, **TRANSFORMER), tokenizer, batch_words=4)
    assert len(whole[0].tags) == 9
