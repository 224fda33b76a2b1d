"""`elmo_hf.metrics.Seqeval` against values counted by hand."""

from pathlib import Path

import evaluate
import pytest

import elmo_hf.metrics.seqeval as seqeval_module
from elmo_hf.metrics import Seqeval

REFERENCES = [
    ["B-PER", "I-PER", "O", "B-LOC", "O"],
    ["O", "B-ORG", "I-ORG", "I-ORG"],
    ["B-LOC", "B-LOC"],
]
PREDICTIONS = [
    ["B-PER", "I-PER", "O", "B-PER", "O"],  # PER right, LOC taken for PER
    ["O", "B-ORG", "I-ORG", "O"],  # ORG cut short
    ["B-LOC", "B-LOC"],  # both right, adjacent
]
# 5 gold entities, 5 predicted, 3 right; 9 of 11 tags equal.
PER = {"precision": 1 / 2, "recall": 1.0, "f1": 2 / 3, "number": 1}
LOC = {"precision": 1.0, "recall": 2 / 3, "f1": 4 / 5, "number": 3}
ORG = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "number": 1}


@pytest.fixture(params=["class", "evaluate.load"])
def metric(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> evaluate.Metric:
    if request.param == "class":
        return Seqeval(cache_dir=str(tmp_path))
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    return evaluate.load(str(Path(seqeval_module.__file__)), cache_dir=str(tmp_path))


def test_hand_counted_scores(metric: evaluate.Metric) -> None:
    scores = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert set(scores) == {"PER", "LOC", "ORG"} | {f"overall_{n}" for n in ("precision", "recall", "f1", "accuracy")}
    for name, expected in {"PER": PER, "LOC": LOC, "ORG": ORG}.items():
        assert scores[name] == pytest.approx(expected, abs=1e-12)
    assert scores["overall_precision"] == pytest.approx(3 / 5, abs=1e-12)
    assert scores["overall_recall"] == pytest.approx(3 / 5, abs=1e-12)
    assert scores["overall_f1"] == pytest.approx(3 / 5, abs=1e-12)
    assert scores["overall_accuracy"] == pytest.approx(9 / 11, abs=1e-12)


def test_results_are_plain_numbers() -> None:
    scores = Seqeval().compute(predictions=PREDICTIONS, references=REFERENCES)
    for value in (scores["overall_f1"], scores["overall_accuracy"], scores["PER"]["f1"]):
        assert type(value) is float
    assert type(scores["PER"]["number"]) is int


def test_gathered_batches_equal_one_call(metric: evaluate.Metric) -> None:
    metric.add_batch(predictions=PREDICTIONS[:2], references=REFERENCES[:2])
    metric.add(prediction=PREDICTIONS[2], reference=REFERENCES[2])
    gathered = metric.compute()
    assert gathered == Seqeval().compute(predictions=PREDICTIONS, references=REFERENCES)


@pytest.mark.parametrize(
    ("scheme", "precision", "recall"),
    [
        # One gold entity; conlleval reads a starting I- as an entity, IOB2 does not.
        (None, 1.0, 1.0),
        ("IOB2", 0.0, 0.0),
        ("BIO", 0.0, 0.0),
    ],
)
def test_scheme_decides_what_an_entity_is(scheme: str | None, precision: float, recall: float) -> None:
    scores = Seqeval().compute(
        predictions=[["O", "I-PER", "I-PER"]], references=[["O", "B-PER", "I-PER"]], scheme=scheme
    )
    assert (scores["overall_precision"], scores["overall_recall"]) == (precision, recall)


@pytest.mark.parametrize("scheme", ["BIOES", "IOBES"])
def test_bioes(scheme: str) -> None:
    references = [["S-LOC", "O", "B-PER", "I-PER", "E-PER"], ["B-ORG", "E-ORG"]]
    predictions = [["S-LOC", "O", "B-PER", "E-PER", "O"], ["B-ORG", "E-ORG"]]
    scores = Seqeval().compute(predictions=predictions, references=references, scheme=scheme)
    assert scores["overall_precision"] == pytest.approx(2 / 3, abs=1e-12)
    assert scores["overall_recall"] == pytest.approx(2 / 3, abs=1e-12)
    assert scores["PER"]["number"] == 1


def test_types_may_hold_dashes() -> None:
    tags = [["B-creative-work", "I-creative-work", "O"]]
    assert Seqeval().compute(predictions=tags, references=tags)["creative-work"]["number"] == 1


def test_no_entities_anywhere_scores_zero() -> None:
    scores = Seqeval().compute(predictions=[["O", "O"]], references=[["O", "O"]])
    assert scores == {
        "overall_precision": 0.0,
        "overall_recall": 0.0,
        "overall_f1": 0.0,
        "overall_accuracy": 1.0,
    }


def test_nothing_predicted_scores_zero_without_warning(recwarn: pytest.WarningsRecorder) -> None:
    scores = Seqeval().compute(predictions=[["O", "O"]], references=[["B-PER", "O"]])
    assert scores["overall_f1"] == 0.0
    assert scores["PER"]["number"] == 1
    assert not [w for w in recwarn if "ill-defined" in str(w.message)]


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "predictions and references are empty"),
        ([[]], [[]], "1 sentences are empty"),
        ([["O"]], [["O"], ["O"]], "1 predictions and 2 references"),
        ([["O"]], [["O", "O"]], "sentence 0 .*1 predicted and 2 reference tags"),
        ([["O"]], None, "references missing"),
        (["O"], ["O"], "sentence 0 is a string"),
        ([["NOUN"]], [["O"]], "tag 'NOUN': expected O or PREFIX-TYPE"),
        ([["X-PER"]], [["O"]], "tag 'X-PER'"),
        ([["B-"]], [["O"]], "tag 'B-'"),
    ],
)
def test_bad_input(metric: evaluate.Metric, predictions: object, references: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=predictions, references=references)


def test_compute_without_anything_gathered(metric: evaluate.Metric) -> None:
    with pytest.raises(ValueError, match="add_batch"):
        metric.compute()


def test_unknown_scheme() -> None:
    with pytest.raises(ValueError, match="scheme='IOB3'.*None.*IOB1.*IOB2"):
        Seqeval().compute(predictions=[["O"]], references=[["O"]], scheme="IOB3")


def test_metric_is_usable_after_an_error(metric: evaluate.Metric) -> None:
    with pytest.raises(ValueError, match="tag 'NOUN'"):
        metric.compute(predictions=[["NOUN"]], references=[["O"]])
    assert metric.compute(predictions=[["B-PER"]], references=[["B-PER"]])["overall_f1"] == 1.0
