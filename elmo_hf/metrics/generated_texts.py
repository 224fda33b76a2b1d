"""What the metrics of generated text, BLEU and ROUGE, share: their inputs and how these are checked."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate


def text_features() -> list[datasets.Features]:
    """A prediction is a text; its references are one text, or a list of alternatives."""
    text = datasets.Value("string")
    return [
        datasets.Features({"predictions": text, "references": references})
        for references in (text, datasets.Sequence(text))
    ]


def as_texts(predictions: Any, references: Any) -> tuple[list[str], list[list[str]]]:
    """The predictions, and for each the list of its references.

    Args:
        predictions: texts; an empty one is a (bad) prediction.
        references: one text, or a list of at least one text, for each prediction.

    Raises:
        ValueError: something missing, nothing to score, different numbers, or a value that is no text.
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

    Abstract, so that `evaluate.load` takes the metric of a file for its main class and not this one.
    """

    def compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, Any] | None:
        """Score `predictions` against `references`, or what `add` and `add_batch` have gathered if both are `None`."""
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
        """The scores of `predictions` against `references`: texts, or a list of alternatives for each prediction."""
