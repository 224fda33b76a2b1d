"""`score` against the language model itself, sentence by sentence, and against the perplexity of pretraining."""

import copy

import numpy as np
import pytest
import torch

import elmo_hf
from elmo_hf import ElmoForMaskedLM, ElmoForPreTraining, ElmoModel, ElmoTokenizer, score
from elmo_hf.inference.sentence_streams import read_streams
from elmo_hf.model.transformer import ElmoTransformerEncoder
from elmo_hf.pretraining import perplexity, score_sentences
from modeling_tests.forking import run_python
from modeling_tests.tiny import WORD_INPUT, tiny_config, with_large_weights

WORDS = ["<S>", "</S>", "<UNK>", *"the cat sat on a mat , . !".split()]
SENTENCES = ["The cat (a cat) sat.", ["on"], "", ["the", "mat", "zebra"], "cat", [], "a b c d e f g h " * 5]


@pytest.fixture
def tokenizer():
    return ElmoTokenizer(vocab=WORDS, max_characters_per_word=9)


def tiny_model(cls=ElmoForPreTraining, **overrides):
    return with_large_weights(cls(tiny_config(vocab_size=len(WORDS) + 2, mask_token_id=13, **overrides))).eval()


@torch.no_grad()
def log_probabilities(model, tokenizer, sentence):
    """Forward and backward log-probabilities of one sentence's targets, from the model's own forward pass."""
    batch = tokenizer(sentence, is_split_into_words=not isinstance(sentence, str), return_tensors="pt")
    output = ElmoForPreTraining.forward(model, **batch)
    return output.forward_log_probs[0, 1:].double().numpy(), output.backward_log_probs[0, :-1].double().numpy()


VARIANTS = {
    "characters": {},
    "words": WORD_INPUT,
    "adaptive": {"softmax_cutoffs": [4]},
    "transformer": {"encoder_type": "transformer", "num_attention_heads": 2, "feed_forward_size": 6},
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_scores_equal_the_model_probabilities(tokenizer, variant, batch_size):
    model = tiny_model(**VARIANTS[variant])
    scores = score(SENTENCES, model, tokenizer, per_word=True, batch_size=batch_size)
    sums, targets = np.zeros(2), 0
    assert [each.index for each in scores.sentences] == list(range(len(SENTENCES)))
    assert scores.forward.shape == scores.backward.shape == scores.both.shape == (len(SENTENCES),)
    for index, (found, sentence) in enumerate(zip(scores.sentences, SENTENCES, strict=True)):
        forward, backward = log_probabilities(model, tokenizer, sentence)
        np.testing.assert_allclose(found.forward_log_probs, forward, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.backward_log_probs, backward, rtol=0, atol=1e-5)
        assert scores.forward[index] == pytest.approx(np.exp(-forward.mean()), rel=1e-5)
        assert scores.backward[index] == pytest.approx(np.exp(-backward.mean()), rel=1e-5)
        assert scores.both[index] == pytest.approx(np.exp(-(forward.mean() + backward.mean()) / 2), rel=1e-5)
        sums += forward.sum(), backward.sum()
        targets += len(forward)
    assert scores.total.targets == targets
    assert scores.total.forward == pytest.approx(np.exp(-sums[0] / targets), rel=1e-5)
    assert scores.total.backward == pytest.approx(np.exp(-sums[1] / targets), rel=1e-5)
    assert scores.total.both == pytest.approx(np.exp(-sums.sum() / 2 / targets), rel=1e-5)
    assert scores.sentences[3].unknown == 1 and scores.sentences[3].words == 3


def test_transformers_of_older_versions(tokenizer):
    """An encoder of an older version is used through its own `read_streams`, and refused without it."""
    model = tiny_model(**VARIANTS["transformer"])
    expected, encoder = score(SENTENCES, model, tokenizer), copy.deepcopy(model.elmo.encoder)

    class Before(ElmoTransformerEncoder):
        with_positions = property()  # there is none

    model.elmo.encoder.__class__ = Before
    with pytest.raises(TypeError, match=rf"version 0.*elmo_hf {elmo_hf.__version__}"):
        score(SENTENCES, model, tokenizer)
    Before.read_streams = lambda self, *streams: read_streams(encoder, *streams)
    np.testing.assert_array_equal(score(SENTENCES, model, tokenizer).both, expected.both)


def test_the_perplexity_of_pretraining(tokenizer):
    model = tiny_model()
    scores = score(SENTENCES, model, tokenizer)
    assert scores.total == perplexity(model, tokenizer, SENTENCES, carry_state=False)
    expected = sorted(score_sentences(model, tokenizer, SENTENCES, carry_state=False), key=lambda each: each.index)
    assert scores.sentences == expected
    assert scores.sentences[0].forward_log_probs is None


def test_a_single_text(tokenizer):
    model = tiny_model()
    scores = score("The cat sat.", model, tokenizer)
    assert len(scores.sentences) == 1
    assert scores.both[0] == pytest.approx(score(["The cat sat."], model, tokenizer).total.both, rel=1e-12)


def test_stream_and_empty_input(tokenizer):
    model = tiny_model()
    scores = score((sentence for sentence in SENTENCES), model, tokenizer)
    np.testing.assert_allclose(scores.both, score(SENTENCES, model, tokenizer).both, rtol=1e-12)
    nothing = score([], model, tokenizer)
    assert nothing.sentences == [] and nothing.both.shape == (0,)
    with pytest.raises(ValueError, match="targets=0"):
        _ = nothing.total.both


def test_masked_language_model_and_model_folder(tokenizer, tmp_path):
    model = tiny_model(ElmoForMaskedLM)
    expected = score(SENTENCES, model, tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    scores = score(SENTENCES, tmp_path)
    np.testing.assert_allclose(scores.both, expected.both, rtol=1e-5)
    half = score(SENTENCES, str(tmp_path), dtype=torch.bfloat16)
    np.testing.assert_allclose(np.log(half.both), np.log(expected.both), rtol=0.1)


def test_infinite_perplexity(tokenizer):
    model = tiny_model()
    with torch.no_grad():
        model.softmax.bias[:] = 0
        model.softmax.bias[5] = 1e4
    scores = score(["the mat", "mat"], model, tokenizer)
    assert np.isposinf(scores.both).all() and scores.total.both == float("inf")


def test_pos_tags(tokenizer):
    tagger = ElmoTokenizer(vocab=WORDS, max_characters_per_word=9, pos_tag_set=["N", "D"])
    model = tiny_model(num_pos_tags=2)
    words = [["the", "mat"], [], ["cat"]]
    tags = [["D", "N"], [], [None]]
    scores = score(words, model, tagger, pos_tags=iter(tags), per_word=True)
    for found, sentence, given in zip(scores.sentences, words, tags, strict=True):
        batch = tagger(sentence, pos_tags=given, is_split_into_words=True, return_tensors="pt")
        forward = model(**batch).forward_log_probs[0, 1:].detach().double().numpy()
        np.testing.assert_allclose(found.forward_log_probs, forward, rtol=0, atol=1e-5)
    assert scores.forward[2] != score([["cat"]], model, tagger, pos_tags=[["N"]]).forward[0]
    # Of no effect on a model that does not read them.
    plain = tiny_model()
    np.testing.assert_array_equal(score(words, plain, tagger, pos_tags=tags).both, score(words, plain, tagger).both)
    for sentences, given, message in (
        (words, tags[:2], "pos_tags and sentences.* 2,"),
        (words[:1], tags, "pos_tags and sentences.* 1,"),
        (["the mat"], tags, "sentence 0 .*'the mat'.*pos_tags"),
        (words, [["D"], [], [None]], "1 tags.* 2 words 'the mat'"),
        (words, [["D", "Q"], [], [None]], "'Q'.*pos_tag_set: N, D"),
    ):
        with pytest.raises(ValueError, match=message):
            score(sentences, model, tagger, pos_tags=given)
    with pytest.raises(ValueError, match=r"sentence 0, 'the mat': .*\(num_pos_tags\)"):
        score(words, model, tagger)


def test_refusals(tokenizer):
    with pytest.raises(TypeError, match="model.*ElmoModel.*ElmoForPreTraining"):
        score(["a"], ElmoModel(tiny_config()), tokenizer)
    with pytest.raises(TypeError, match="sentence 1.*5.*int"):
        score(["a", 5], tiny_model(), tokenizer)
    with pytest.raises(TypeError, match="sentences.*5.*list"):
        score(5, tiny_model(), tokenizer)
    with pytest.raises(ValueError, match="tokenizer.*5.*vocab_size=14"):
        score(["a"], tiny_model(), ElmoTokenizer())
    with pytest.raises(ValueError, match="batch_size=0.*1"):
        score(["a"], tiny_model(), tokenizer, batch_size=0)


@pytest.mark.slow
def test_the_packages_of_training_are_not_needed(tokenizer, tmp_path):
    """Importing packages of the extra `train` fails, as if they were not installed."""
    model = tiny_model()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    program = f"""
import sys
sys.modules |= dict.fromkeys(("accelerate", "datasets", "evaluate", "matplotlib", "seqeval", "sklearn", "tensorboard"))
import elmo_hf, elmo_hf.pretraining
print(elmo_hf.score(["the cat"], {str(tmp_path)!r}, device="cpu").both[0])
try:
    elmo_hf.pretraining.pretrain
except ImportError as error:
    print(error)
"""
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr
    printed, refusal = done.stdout.splitlines()
    assert float(printed) == pytest.approx(score(["the cat"], model, tokenizer).both[0], rel=1e-6)
    assert refusal == "elmo_hf.pretraining.pretrain needs accelerate: pip install 'elmo-hf[train]'"
    with pytest.raises(AttributeError, match="'elmo_hf.pretraining'.*'nothing'"):
        _ = elmo_hf.pretraining.nothing
