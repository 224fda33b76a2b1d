"""Accuracy, precision, recall and F1 of labels, as an `evaluate.Metric` that works offline.

Used directly (`from elmo_hf.metrics import Classification`) or as a local module
(`evaluate.load("path/to/classification.py")`); the file therefore imports nothing but its neighbor. The counting is
scikit-learn's.
"""

from typing import Any

import datasets
import numpy as np
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from .checking import CheckedMetric

AVERAGES = ("macro", "weighted", "micro", "binary")


class Classification(CheckedMetric):
    """Scores of labels.

    Args:
        predictions: predicted labels, one integer per text; with the configuration `"multilabel"`, one list of 0 and 1
            per text, with an entry for each label.
        references: gold labels, the same number.
        average: kind of precision, recall and F1: `"macro"`, the mean over labels; `"weighted"`, the mean weighted by
            the labels' numbers in `references`; `"micro"`, over all decisions (with one label per text, all three equal
            the accuracy); or `"binary"`, those of `pos_label` alone, with labels 0 and 1 only (with `"multilabel"`, one
            label).
        pos_label: the label that `"binary"` scores.
        labels: the labels (with `"multilabel"`, the columns) that `"macro"`, `"micro"` and `"weighted"` average over
            (default: labels that occur; with `"multilabel"`, all).

    Returns:
        `accuracy` (the share of texts with all labels correct), `precision`, `recall` and `f1` (0.0 where undefined),
        all floats.

    Raises:
        ValueError: nothing to score, different numbers of predictions and references, other values than described, an
            unknown average, or `"binary"` with more than two labels.
    """

    description = (
        "Accuracy, precision, recall and F1 of texts with one label, or (`multilabel`) with any number of them."
    )
    citation = """
@article{scikit-learn,
    title = {Scikit-learn: Machine Learning in {P}ython},
    author = {Pedregosa, F. and Varoquaux, G. and Gramfort, A. and Michel, V. and Thirion, B. and Grisel, O. and
        Blondel, M. and Prettenhofer, P. and Weiss, R. and Dubourg, V. and Vanderplas, J. and Passos, A. and
        Cournapeau, D. and Brucher, M. and Perrot, M. and Duchesnay, E.},
    journal = {Journal of Machine Learning Research},
    volume = {12},
    pages = {2825--2830},
    year = {2011},
}
"""
    home = "https://scikit-learn.org/stable/modules/model_evaluation.html#classification-metrics"
    scored = "labels"

    def input_features(self) -> datasets.Features:
        if self.config_name not in ("default", "multilabel"):
            raise ValueError(f'config_name={self.config_name!r}: expected "multilabel", or none for one label per text')
        label: Any = datasets.Value("int64")
        if self.config_name == "multilabel":
            label = datasets.Sequence(label)
        return datasets.Features({"predictions": label, "references": label})

    def check(self, predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray]:
        """Convert both to integer arrays, (texts,) or (texts, labels)."""
        multilabel = self.config_name == "multilabel"
        self.check_numbers(predictions, references, "labels for both predictions and references")
        arrays = []
        for name, values in (("predictions", predictions), ("references", references)):
            try:
                array = np.asarray(values)
            except ValueError:  # rows of different lengths
                array = np.empty(0)
            if array.ndim != (2 if multilabel else 1) or array.shape[-1] == 0:
                raise ValueError(
                    f"{name} have shape {array.shape}: expected one list of 0 and 1 per text, all of the same length"
                    if multilabel
                    else f"{name} have shape {array.shape}: expected one label per text; give argmax(-1) of scores, or "
                    'Classification("multilabel") for texts with several labels'
                )
            # Whole numbers as floats are accepted, because multi-label losses need them.
            if array.dtype.kind not in "biuf" or (
                array.dtype.kind == "f" and not np.array_equal(array, np.rint(array))
            ):
                raise ValueError(f"{name} are {array.dtype}: expected integers, the numbers of labels")
            array = array.astype(np.int64)
            if multilabel and not np.isin(array, (0, 1)).all():
                wrong = array[~np.isin(array, (0, 1))][0]
                raise ValueError(
                    f"{name} hold {wrong}: expected 0 or 1 for each label; compare scores with a threshold"
                )
            arrays.append(array)
        if arrays[0].shape != arrays[1].shape:
            raise ValueError(
                f"predictions of shape {arrays[0].shape} and references of shape {arrays[1].shape}: expected the same"
            )
        return arrays[0], arrays[1]

    def _compute(
        self,
        predictions: Any,
        references: Any,
        average: str = "macro",
        pos_label: int = 1,
        labels: list[int] | None = None,
    ) -> dict[str, float]:
        multilabel = self.config_name == "multilabel"
        predicted, gold = self.check(predictions, references)
        if average not in AVERAGES:
            raise ValueError(f"average={average!r}: expected one of {', '.join(AVERAGES)}")
        if average == "binary":
            if multilabel and gold.shape[1] != 1:
                raise ValueError(
                    f'average="binary" and {gold.shape[1]} labels per text: expected one; give average="macro", '
                    '"micro" or "weighted"'
                )
            found = sorted({*predicted.ravel().tolist(), *gold.ravel().tolist()})
            if not {*found, pos_label} <= {0, 1}:
                raise ValueError(
                    f'average="binary" and the labels {found}, pos_label={pos_label}: expected no labels but 0 and 1; '
                    'give average="macro", "micro" or "weighted"'
                )
            predicted, gold, labels, chosen = predicted.ravel(), gold.ravel(), [pos_label], "macro"
        else:
            chosen = average
        precision, recall, f1, _ = precision_recall_fscore_support(
            gold, predicted, labels=labels, average=chosen, zero_division=0
        )
        return {
            "accuracy": float(accuracy_score(gold, predicted)),
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
        }
