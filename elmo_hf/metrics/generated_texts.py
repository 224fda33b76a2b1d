"""Inputs of the metrics of generated text, BLEU and ROUGE, and their checks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate


def text_features() -> list[datasets.Features]:
    """Input features: a prediction is a text; its references are one text, or a list of alternatives."""
    text = datasets.Value("string")
    return [
        datasets.Features({"predictions": text, "references": references})
        for references in (text, datasets.Sequence(text))
    ]


def as_texts(predictions: Any, references: Any) -> tuple[list[str], list[list[str]]]:
    """Check predictions and references, and return the predictions and a list of references for each.

    Args:
        predictions: texts; an empty text is a valid (bad) prediction.
        references: one text, or a list of at least one text, for each prediction.

    Raises:
        ValueError: missing data, nothing to score, different numbers, or a value that is not a text.
    """
    if predictions is None or references is None:
        missing = "predictions" if predictions is None else "references"
        raise ValueError(f"{missing} missing: give one text for each prediction and one or several as its reference")
    if isinstance(predictions, str) or isinstance(references, str):
        one = "predictions" if isinstance(predictions, str) else "references"
        raise ValueError(f"{one} is a single text: expected a list of texts")
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions and {len(references)} references: expected as many")
    if len(predictions) == 0:
        raise ValueError("no texts to score: predictions and references are empty")
    alternatives: list[list[str]] = []
    for number, (predicted, given) in enumerate(zip(predictions, references)):
        found = [given] if isinstance(given, str) else given
        if not isinstance(predicted, str):
            raise ValueError(f"prediction {number} is {predicted!r}: expected a text (str); decode ids of tokens first")
        if not isinstance(found, Sequence) or not found or not all(isinstance(text, str) for text in found):
            raise ValueError(f"reference {number} is {given!r}: expected a text (str) or a list of at least one text")
        alternatives.append(list(found))
    return list(predictions), alternatives


class GeneratedTextMetric(evaluate.Metric, ABC):
    """A metric that checks its texts before `evaluate` stores them.

    It is abstract so that `evaluate.load` does not take it for a file's main class.
    """

    def compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, Any] | None:
        """Score `predictions` against `references`; if both are `None`, the data collected by `add` and `add_batch`."""
        # Checked here because the base class reports empty and uneven input with an error about its cache file.
        if predictions is None and references is None:
            if len(self) == 0 and self.process_id == 0:
                raise ValueError("no texts to score: give predictions and references, or call add_batch before")
        else:
            as_texts(predictions, references)
        # Not super(): evaluate copies this function into each instance, without its class cell.
        return evaluate.Metric.compute(self, predictions=predictions, references=references, **options)

    @abstractmethod
    def _compute(self, *texts: Any, **options: Any) -> dict[str, Any]:
        """Compute the scores of `predictions` against `references`, each a text or a list of alternatives."""
