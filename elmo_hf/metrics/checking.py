"""What the metrics share: checks of their inputs before `evaluate` stores them, and the inputs of generated text."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate


class CheckedMetric(evaluate.Metric, ABC):
    """A metric that checks predictions and references; its docstring lists arguments, results and errors.

    It is abstract so that `evaluate.load` does not take it for a file's main class.

    Attributes:
        description, citation, home: texts of the module's information, and the address of its source.
        scored: plural noun for what is scored, for messages.
    """

    description: str
    citation: str
    home: str
    scored: str

    @abstractmethod
    def input_features(self) -> Any:
        """Types of predictions and references."""

    @abstractmethod
    def check(self, predictions: Any, references: Any) -> Any:
        """Raise `ValueError` for predictions and references that cannot be scored."""

    @abstractmethod
    def _compute(self, *pair: Any, **options: Any) -> dict[str, Any]:
        """Compute the scores of predictions against references."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation=self.citation,
            inputs_description=inspect.getdoc(type(self)),
            features=self.input_features(),
            reference_urls=[self.home],
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, Any] | None:
        """Score `predictions` against `references`; if both are `None`, the data collected by `add` and `add_batch`."""
        # Checked here because the base class reports empty and uneven input with an error about its cache file.
        if predictions is None and references is None:
            if len(self) == 0 and self.process_id == 0:
                raise ValueError(
                    f"no {self.scored} to score: give predictions and references, or call add_batch before"
                )
        else:
            self.check(predictions, references)
        # Not super(): evaluate copies this function into each instance, without its class cell.
        return evaluate.Metric.compute(self, predictions=predictions, references=references, **options)

    def check_numbers(self, predictions: Any, references: Any, expected: str) -> None:
        """Raise `ValueError` unless there are as many predictions as references, and at least one."""
        if predictions is None or references is None:
            missing = "predictions" if predictions is None else "references"
            raise ValueError(f"{missing} missing: give {expected}")
        if len(predictions) != len(references):
            raise ValueError(
                f"{len(predictions)} predictions and {len(references)} references: expected the same number"
            )
        if len(references) == 0:
            raise ValueError(f"no {self.scored} to score: predictions and references are empty")


class GeneratedTextMetric(CheckedMetric):
    """A metric of generated texts: a prediction is a text; its references are one text, or a list of alternatives."""

    scored = "texts"

    def input_features(self) -> list[datasets.Features]:
        text = datasets.Value("string")
        return [
            datasets.Features({"predictions": text, "references": references})
            for references in (text, datasets.Sequence(text))
        ]

    def check(self, predictions: Any, references: Any) -> tuple[list[str], list[list[str]]]:
        """Check predictions and references, and return the predictions and a list of references for each.

        Args:
            predictions: texts; an empty text is a valid (bad) prediction.
            references: one text, or a list of at least one text, for each prediction.

        Raises:
            ValueError: missing data, nothing to score, different numbers, or a value that is not a text.
        """
        for name, given in (("predictions", predictions), ("references", references)):
            if isinstance(given, str):
                raise ValueError(f"{name} is a single text: expected a list of texts")
        self.check_numbers(predictions, references, "one text for each prediction and one or several as its reference")
        alternatives: list[list[str]] = []
        for number, (predicted, given) in enumerate(zip(predictions, references)):
            found = [given] if isinstance(given, str) else given
            if not isinstance(predicted, str):
                raise ValueError(
                    f"prediction {number} is {predicted!r}: expected a text (str); decode ids of tokens first"
                )
            if not isinstance(found, Sequence) or not found or not all(isinstance(text, str) for text in found):
                raise ValueError(
                    f"reference {number} is {given!r}: expected a text (str) or a list of at least one text"
                )
            alternatives.append(list(found))
        return list(predictions), alternatives
