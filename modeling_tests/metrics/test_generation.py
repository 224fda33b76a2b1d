"""`elmo_hf.metrics.Bleu` and `Rouge` against values counted by hand and the libraries called directly."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import evaluate
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

import elmo_hf.metrics.bleu as bleu_module
import elmo_hf.metrics.rouge as rouge_module
from elmo_hf.metrics import Bleu, Rouge

PREDICTIONS = ["the cat sat on the mat", "a dog barks", "Zwei Männer gehen über die Straße ."]
REFERENCES = ["the cat is on the mat", "the dog barks loudly", "Zwei Männer überqueren die Straße ."]
Load = Callable[[str], evaluate.Metric]
SCORES = {"bleu": "bleu", "rouge": "rouge1"}
MODULES = {"bleu": (bleu_module, Bleu), "rouge": (rouge_module, Rouge)}


@pytest.fixture(params=["class", "evaluate.load"])
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    """A metric by its name, made from its class and loaded from its file."""

    def make(name: str) -> evaluate.Metric:
        module, metric = MODULES[name]
        if request.param == "class":
            return metric(cache_dir=str(tmp_path))
        return evaluate.load(str(Path(module.__file__)), cache_dir=str(tmp_path))

    return make


# ---- BLEU


def test_bleu_counted_by_hand(load: Load) -> None:
    prediction, reference = "the cat sat on the mat today", "the cat is sitting on the mat by the door"
    # Of 7 words the, cat, on, the, mat are in the reference; of 6 pairs "the cat", "on the", "the mat"; of 5 triples
    # "on the mat"; of 4 fours none: the first order without a match counts 1/2 (smoothing "exp"). 7 words against 10.
    precisions = [5 / 7, 3 / 6, 1 / 5, 1 / 2 / 4]
    scores = load("bleu").compute(predictions=[prediction], references=[reference])
    assert scores["precisions"] == pytest.approx([100 * p for p in precisions], abs=1e-9)
    assert scores["brevity_penalty"] == pytest.approx(math.exp(1 - 10 / 7), abs=1e-12)
    expected = 100 * math.exp(1 - 10 / 7) * math.prod(precisions) ** 0.25
    assert scores["bleu"] == pytest.approx(expected, abs=1e-9)
    assert (scores["prediction_length"], scores["reference_length"]) == (7, 10)


def test_bleu_is_corpus_level(load: Load) -> None:
    scores = load("bleu").compute(predictions=PREDICTIONS, references=REFERENCES)
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(PREDICTIONS, [REFERENCES]).score, abs=1e-9)
    mean = sum(sacrebleu.sentence_bleu(p, [r]).score for p, r in zip(PREDICTIONS, REFERENCES)) / 3
    assert abs(scores["bleu"] - mean) > 1, "the mean of the sentences' scores is another number"
    assert scores["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert type(scores["bleu"]) is float and type(scores["reference_length"]) is int


@pytest.mark.parametrize(
    "options", [{"lowercase": True}, {"tokenize": "char"}, {"smooth_method": "none"}, {"tokenize": "none"}]
)
def test_bleu_options(options: dict[str, object]) -> None:
    predictions, references = ["The Cat sat, here."], ["the cat sat here."]
    expected = sacrebleu.corpus_bleu(predictions, [references], **options).score
    scores = Bleu().compute(predictions=predictions, references=references, **options)
    assert scores["bleu"] == pytest.approx(expected, abs=1e-9)
    if "smooth_method" not in options:
        assert scores["bleu"] != pytest.approx(sacrebleu.corpus_bleu(predictions, [references]).score, abs=1e-3)


def test_bleu_of_alternatives_of_uneven_number(load: Load) -> None:
    references = [["the cat is on the mat", "the cat sat on a mat"], ["the dog barks loudly"], [REFERENCES[2], "Halt"]]
    scores = load("bleu").compute(predictions=PREDICTIONS, references=references)
    streams = [[given[0] for given in references], [references[0][1], None, "Halt"]]
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(PREDICTIONS, streams).score, abs=1e-9)
    assert scores["bleu"] > Bleu().compute(predictions=PREDICTIONS, references=REFERENCES)["bleu"]


def test_bleu_of_equal_and_of_empty_texts() -> None:
    texts = ["A little dog runs .", "Two men cross the street ."]
    assert Bleu().compute(predictions=texts, references=texts)["bleu"] == pytest.approx(100, abs=1e-9)
    assert Bleu().compute(predictions=["", ""], references=texts)["bleu"] == 0.0


# ---- ROUGE


def test_rouge_counted_by_hand(load: Load) -> None:
    # 6 words each, 5 in common; pairs "the cat", "on the", "the mat" of 5 each; longest common subsequence 5 of 6.
    scores = load("rouge").compute(predictions=PREDICTIONS[:1], references=REFERENCES[:1])
    assert scores == pytest.approx({"rouge1": 5 / 6, "rouge2": 3 / 5, "rougeL": 5 / 6, "rougeLsum": 5 / 6}, abs=1e-12)
    # 2 of 3 and of 4 words; the mean is that of the texts.
    scores = load("rouge").compute(predictions=PREDICTIONS[:2], references=REFERENCES[:2])
    second = 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)
    assert scores["rouge1"] == pytest.approx((5 / 6 + second) / 2, abs=1e-12)
    assert all(type(value) is float for value in scores.values())


def test_rouge_equals_the_library(load: Load) -> None:
    names = ["rouge1", "rouge3", "rougeL"]
    scorer = RougeScorer(names, use_stemmer=True)
    rows = [scorer.score(reference, prediction) for prediction, reference in zip(PREDICTIONS, REFERENCES)]
    expected = {name: sum(row[name].fmeasure for row in rows) / 3 for name in names}
    found = load("rouge").compute(predictions=PREDICTIONS, references=REFERENCES, rouge_types=names, use_stemmer=True)
    assert found == pytest.approx(expected, abs=1e-12)


def test_rouge_lsum_reads_one_sentence_a_line() -> None:
    prediction, reference = "the dog barks\nthe cat sleeps", "the cat sleeps\nthe dog barks"
    scores = Rouge().compute(predictions=[prediction], references=[reference])
    assert scores["rougeLsum"] == pytest.approx(1, abs=1e-12)
    assert scores["rougeL"] == pytest.approx(1 / 2, abs=1e-12)


def test_rouge_takes_the_best_alternative() -> None:
    references = [["a stone", REFERENCES[0]], ["a dog barks", "no"]]
    scores = Rouge().compute(predictions=PREDICTIONS[:2], references=references)
    assert scores["rouge1"] == pytest.approx((5 / 6 + 1) / 2, abs=1e-12)


def test_rouge_of_other_languages() -> None:
    texts = ["Äpfel über Öl", "Äste übers Öl"]
    # Without their umlauts "Äpfel" and "Öl" leave "pfel" and "l", and so on: "l" alone is common.
    english = Rouge().compute(predictions=texts[:1], references=texts[1:], rouge_types=["rouge1"])
    unicode = Rouge().compute(predictions=texts[:1], references=texts[1:], rouge_types=["rouge1"], tokenizer="unicode")
    spaces = Rouge().compute(predictions=texts[:1], references=["öl"], rouge_types=["rouge1"], tokenizer=str.split)
    assert english["rouge1"] == unicode["rouge1"] == pytest.approx(1 / 3, abs=1e-12)
    assert spaces["rouge1"] == 0.0  # nothing changes the case
    russian = {"predictions": ["Кошка спит"], "references": ["кошка спит."], "rouge_types": ["rouge2"]}
    assert Rouge().compute(**russian)["rouge2"] == 0.0
    assert Rouge().compute(**russian, tokenizer="unicode")["rouge2"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rouge_types": ["rouge0"]}, "rouge_types holds 'rouge0': expected rouge1 to rouge9"),
        ({"tokenizer": "german"}, 'tokenizer=\'german\': expected "english", "unicode" or a function'),
        ({"tokenizer": "unicode", "use_stemmer": True}, "use_stemmer=True.*tokenizer="),
    ],
)
def test_unknown_options_of_rouge(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rouge().compute(predictions=["a"], references=["a"], **options)


# ---- both


@pytest.mark.parametrize("name", ["bleu", "rouge"])
@pytest.mark.parametrize("references", [REFERENCES, [[text, "and another"] for text in REFERENCES]])
def test_gathered_batches_equal_one_call(name: str, references: list[object], load: Load) -> None:
    metric = load(name)
    metric.add_batch(predictions=PREDICTIONS[:2], references=references[:2])
    metric.add(prediction=PREDICTIONS[2], reference=references[2])
    assert metric.compute() == load(name).compute(predictions=PREDICTIONS, references=references)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bleu", "rouge"])
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "predictions and references are empty"),
        (None, None, "predictions and references.*add_batch"),
        (["a"], None, "references missing"),
        (["a"], ["a", "b"], "1 predictions.*2 references"),
        ("a", ["a"], "predictions is a single text"),
        ([["a", "cat"]], ["a cat"], r"prediction 0 is \['a', 'cat'\]: expected a text"),
        (["a"], [[]], r"reference 0 is \[\]"),
        (["a", "b"], ["a", None], "reference 1 is None"),
    ],
)
def test_bad_input(name: str, load: Load, predictions: object, references: object, message: str) -> None:
    metric = load(name)
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=predictions, references=references)
    assert metric.compute(predictions=["a b c d"], references=["a b c d"])[SCORES[name]] > 0


@pytest.mark.parametrize(("name", "library"), [("bleu", "sacrebleu.metrics"), ("rouge", "rouge_score.rouge_scorer")])
def test_missing_library(name: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"needs {library.partition('.')[0]}: .*elmo-hf\[train\]"):
        MODULES[name][1]().compute(predictions=["a"], references=["a"])
