"""`elmo_hf.metrics.Classification` against values counted by hand."""

from pathlib import Path

import evaluate
import numpy as np
import pytest

import elmo_hf.metrics.classification as classification_module
from elmo_hf.metrics import Classification

REFERENCES = [0, 0, 0, 1, 1, 2]
PREDICTIONS = [0, 0, 1, 1, 2, 2]
# Label 0: 2 of 2 predicted right, 2 of 3 found; 1: 1 of 2, 1 of 2; 2: 1 of 2, 1 of 1.
PRECISIONS, RECALLS, F1S = [1, 1 / 2, 1 / 2], [2 / 3, 1 / 2, 1], [4 / 5, 1 / 2, 2 / 3]

# Columns: 1 of 2 right, 1 of 2 found; 1 of 1, 1 of 2; nothing predicted, one to find.
MULTILABEL_REFERENCES = [[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0]]
MULTILABEL_PREDICTIONS = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]


@pytest.fixture(params=["class", "evaluate.load"])
def make_metric(request, tmp_path, monkeypatch):
    def make(*config_name):
        if request.param == "class":
            return Classification(*config_name, cache_dir=str(tmp_path))
        monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
        return evaluate.load(str(Path(classification_module.__file__)), *config_name, cache_dir=str(tmp_path))

    return make


def scores_of(accuracy, precision, recall, f1):
    return pytest.approx({"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1}, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (2 / 3, sum(PRECISIONS) / 3, sum(RECALLS) / 3, sum(F1S) / 3)),
        ({"average": "micro"}, (2 / 3, 2 / 3, 2 / 3, 2 / 3)),
        (
            {"average": "weighted"},
            (2 / 3, *((3 * a + 2 * b + c) / 6 for a, b, c in (PRECISIONS, RECALLS, F1S))),
        ),
        ({"average": "macro", "labels": [0, 2]}, (2 / 3, 3 / 4, 5 / 6, (4 / 5 + 2 / 3) / 2)),
        # A label that never occurs has scores of zero.
        ({"average": "macro", "labels": [0, 7]}, (2 / 3, 1 / 2, 1 / 3, 2 / 5)),
    ],
)
def test_hand_counted_scores(make_metric, options, expected):
    metric = make_metric()
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES, **options) == scores_of(*expected)


@pytest.mark.parametrize(("pos_label", "expected"), [(1, (2 / 3, 2 / 4, 4 / 7)), (0, (1 / 3, 1 / 2, 2 / 5))])
def test_binary(make_metric, pos_label, expected):
    scores = make_metric().compute(
        predictions=[1, 1, 1, 0, 0, 0], references=[1, 1, 0, 1, 0, 1], average="binary", pos_label=pos_label
    )
    assert scores == scores_of(1 / 2, *expected)


def test_binary_with_one_label_only():
    scores = Classification().compute(predictions=[0, 0], references=[0, 0], average="binary")
    assert scores == scores_of(1.0, 0.0, 0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ((1 / 2 + 1 + 0) / 3, (1 / 2 + 1 / 2 + 0) / 3, (1 / 2 + 2 / 3 + 0) / 3)),
        ({"average": "micro"}, (2 / 3, 2 / 5, 1 / 2)),
        ({"average": "weighted"}, ((1 + 2 + 0) / 5, (1 + 1 + 0) / 5, (1 + 4 / 3 + 0) / 5)),
        ({"labels": [0, 1]}, (3 / 4, 1 / 2, (1 / 2 + 2 / 3) / 2)),
    ],
)
@pytest.mark.parametrize("kind", [list, np.array, lambda rows: np.array(rows, dtype=np.float32)])
def test_multilabel(make_metric, options, expected, kind):
    scores = make_metric("multilabel").compute(
        predictions=kind(MULTILABEL_PREDICTIONS), references=kind(MULTILABEL_REFERENCES), **options
    )
    # Two texts have all their labels right.
    assert scores == scores_of(2 / 4, *expected)


def test_multilabel_with_a_single_label():
    scores = Classification("multilabel").compute(
        predictions=[[1], [1], [0]], references=[[1], [0], [1]], average="binary"
    )
    assert scores == scores_of(1 / 3, 1 / 2, 1 / 2, 1 / 2)


def test_results_are_plain_numbers():
    for metric, labels in ((Classification(), [0, 1]), (Classification("multilabel"), [[0, 1], [1, 1]])):
        scores = metric.compute(predictions=np.array(labels), references=np.array(labels))
        assert all(type(value) is float and value == 1.0 for value in scores.values())


def test_gathered_batches_equal_one_call(make_metric):
    metric = make_metric()
    metric.add_batch(predictions=np.array(PREDICTIONS[:4]), references=REFERENCES[:4])
    metric.add_batch(predictions=PREDICTIONS[4:5], references=REFERENCES[4:5])
    metric.add(prediction=PREDICTIONS[5], reference=REFERENCES[5])
    assert metric.compute() == Classification().compute(predictions=PREDICTIONS, references=REFERENCES)
    metric = make_metric("multilabel")
    metric.add_batch(predictions=MULTILABEL_PREDICTIONS, references=MULTILABEL_REFERENCES)
    expected = Classification("multilabel").compute(
        predictions=MULTILABEL_PREDICTIONS, references=MULTILABEL_REFERENCES
    )
    assert metric.compute() == expected


def test_nothing_predicted_scores_zero_without_warning(recwarn):
    scores = Classification().compute(predictions=[0, 0], references=[1, 1], average="macro")
    assert scores == scores_of(0.0, 0.0, 0.0, 0.0)
    assert not [w for w in recwarn if "ill-defined" in str(w.message)]


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "predictions and references are empty"),
        ([0], [0, 1], "1 predictions.*2 references"),
        ([0], None, "references missing"),
        ([[0, 1]], [[0, 1]], r"predictions have shape \(1, 2\)"),
        ([0.5], [0], "predictions are float64"),
        ([float("nan")], [0], "predictions are float64"),
        (["good"], ["bad"], "predictions are <U4"),
    ],
)
def test_bad_input(make_metric, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        make_metric().compute(predictions=predictions, references=references)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "predictions and references are empty"),
        ([0, 1], [0, 1], r"predictions have shape \(2,\)"),
        ([[0], [0, 1]], [[0], [0, 1]], r"predictions have shape \(0,\)"),
        ([[]], [[]], r"predictions.*\(1, 0\)"),
        ([[0, 2]], [[0, 1]], "predictions hold 2"),
        ([[0, 0.3]], [[0, 1]], "predictions are float64"),
        ([[0, 1]], [[0, 1, 1]], r"predictions.*\(1, 2\).*references.*\(1, 3\)"),
    ],
)
def test_bad_multilabel_input(make_metric, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        make_metric("multilabel").compute(predictions=predictions, references=references)


@pytest.mark.slow
def test_bad_options():
    with pytest.raises(ValueError, match="average='mean'"):
        Classification().compute(predictions=[0], references=[0], average="mean")
    with pytest.raises(ValueError, match=r'average="binary".*\[0.*2\].*pos_label=1'):
        Classification().compute(predictions=[0], references=[2], average="binary")
    with pytest.raises(ValueError, match=r"pos_label=3"):
        Classification().compute(predictions=[0], references=[1], average="binary", pos_label=3)
    with pytest.raises(ValueError, match='average="binary" and 2 labels'):
        Classification("multilabel").compute(predictions=[[0, 1]], references=[[0, 1]], average="binary")
    with pytest.raises(ValueError, match="config_name='multi'"):
        Classification("multi")


def test_compute_without_anything_gathered(make_metric):
    with pytest.raises(ValueError, match="add_batch"):
        make_metric().compute()
