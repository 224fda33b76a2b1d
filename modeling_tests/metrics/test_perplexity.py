"""`elmo_hf.metrics.Perplexity` against values counted by hand, and against the language model."""

import math
from pathlib import Path

import evaluate
import pytest
import torch

import elmo_hf.metrics.perplexity as perplexity_module
from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer
from elmo_hf.metrics import Perplexity
from elmo_hf.pretraining import perplexity

LOG_PROBABILITIES = [[math.log(1 / 2), math.log(1 / 8)], [math.log(1 / 4)], [0.0, math.log(1 / 16), math.log(1 / 4)]]
# Bits: 1 + 3, 2, 0 + 4 + 2: twelve over six words.
WORDS = ["<S>", "</S>", "<UNK>", "the", "cat", "sat"]
SENTENCES = ["the cat sat", "", "the zebra"]


@pytest.fixture(params=["class", "evaluate.load"])
def metric(request: pytest.FixtureRequest, tmp_path: Path) -> evaluate.Metric:
    if request.param == "class":
        return Perplexity(cache_dir=str(tmp_path))
    return evaluate.load(str(Path(perplexity_module.__file__)), cache_dir=str(tmp_path))


@pytest.fixture
def tokenizer() -> ElmoTokenizer:
    return ElmoTokenizer(vocab=WORDS, max_characters_per_word=8)


@pytest.fixture
def model(tokenizer: ElmoTokenizer) -> ElmoForPreTraining:
    config = ElmoConfig(
        vocab_size=len(tokenizer),
        mask_token_id=tokenizer.mask_token_id,
        max_characters_per_word=8,
        character_filters=[[1, 4], [2, 8]],
        projection_size=6,
        cell_size=10,
    )
    torch.manual_seed(3)
    return ElmoForPreTraining(config).eval()


def test_hand_counted(metric: evaluate.Metric) -> None:
    scores = metric.compute(predictions=LOG_PROBABILITIES)
    assert set(scores) == {"perplexity", "loss", "perplexities", "targets"}
    assert scores["perplexity"] == pytest.approx(4.0, rel=1e-12)
    assert scores["loss"] == pytest.approx(2 * math.log(2), rel=1e-12)
    assert scores["perplexities"] == pytest.approx([4.0, 4.0, 4.0], rel=1e-12)
    assert scores["targets"] == 6
    assert type(scores["perplexity"]) is type(scores["loss"]) is float and type(scores["targets"]) is int


def test_every_word_counts_once() -> None:
    scores = Perplexity().compute(predictions=[[math.log(1 / 16)], [0.0, 0.0, 0.0]])
    assert scores["perplexity"] == pytest.approx(2.0, rel=1e-12)  # not the mean of 16 and 1
    assert scores["perplexities"] == pytest.approx([16.0, 1.0], rel=1e-12)


def test_gathered_batches_equal_one_call(metric: evaluate.Metric) -> None:
    metric.add_batch(predictions=LOG_PROBABILITIES[:2])
    metric.add(prediction=LOG_PROBABILITIES[2])
    assert metric.compute() == Perplexity().compute(predictions=LOG_PROBABILITIES)


def test_impossible_words_are_infinite() -> None:
    scores = Perplexity().compute(predictions=[[-math.inf, -1.0], [-1.0]])
    assert scores["perplexity"] == scores["loss"] == math.inf
    assert scores["perplexities"] == pytest.approx([math.inf, math.e])
    assert Perplexity().compute(predictions=[[-1e4]])["perplexity"] == math.inf


@pytest.mark.parametrize("split", [False, True])
def test_texts_to_a_model(
    metric: evaluate.Metric, model: ElmoForPreTraining, tokenizer: ElmoTokenizer, split: bool
) -> None:
    sentences = [sentence.split() for sentence in SENTENCES] if split else SENTENCES
    sentences = sentences[1:] + sentences[:1]  # an empty one first
    scores = metric.compute(predictions=sentences, model=model, tokenizer=tokenizer)
    expected = perplexity(model, tokenizer, SENTENCES, carry_state=False)
    assert scores["perplexity"] == pytest.approx(expected.both, rel=1e-6)
    assert scores["loss"] == pytest.approx(math.log(expected.both), rel=1e-6)
    assert scores["forward_perplexity"] == pytest.approx(expected.forward, rel=1e-6)
    assert scores["backward_perplexity"] == pytest.approx(expected.backward, rel=1e-6)
    assert (scores["targets"], scores["words"], scores["unknown_words"]) == (8, 5, 1)
    singles = [perplexity(model, tokenizer, [each], carry_state=False).both for each in sentences]
    assert scores["perplexities"] == pytest.approx(singles, rel=1e-6)


def test_log_probabilities_and_texts_agree(model: ElmoForPreTraining, tokenizer: ElmoTokenizer) -> None:
    """Log-probabilities that the model itself gives, and its texts."""
    with torch.no_grad():
        batch = tokenizer("the cat sat", return_tensors="pt")
        output = model(**batch)
    forward = Perplexity().compute(predictions=[output.forward_log_probs[0, 1:].tolist()])
    texts = Perplexity().compute(predictions=["the cat sat"], model=model, tokenizer=tokenizer)
    assert forward["perplexity"] == pytest.approx(texts["forward_perplexity"], rel=1e-5)


def test_a_folder(model: ElmoForPreTraining, tokenizer: ElmoTokenizer, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    scores = Perplexity().compute(predictions=SENTENCES, model=str(tmp_path / "model"))
    expected = Perplexity().compute(predictions=SENTENCES, model=model, tokenizer=tokenizer, batch_size=1)
    assert scores["perplexities"] == pytest.approx(expected["perplexities"], rel=1e-5)


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([], "predictions are empty"),
        ("a text", "predictions.*'a text'.*list"),
        (["a text"], "sentence 0.*'a text'"),
        ([["a", "b"]], "sentence 0.*'a'"),
        ([[-1.0], []], "sentence 1 has no log-probabilities"),
        ([[-1.0, 0.5]], "sentence 0 holds 0.5, no log-probability"),
        ([[-1.0, math.nan]], "sentence 0 holds nan, no log-probability"),
    ],
)
def test_bad_input(metric: evaluate.Metric, predictions: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=predictions)


def test_bad_options(metric: evaluate.Metric, model: ElmoForPreTraining) -> None:
    with pytest.raises(ValueError, match="sentence 0 holds -1.0: .*model"):
        metric.compute(predictions=[[-1.0]], model=model)
    with pytest.raises(ValueError, match="^references "):
        metric.compute(predictions=[[-1.0]], references=[[-1.0]])
    with pytest.raises(ValueError, match="add_batch"):
        metric.compute()
    assert metric.compute(predictions=[[0.0]])["perplexity"] == 1.0
