"""Exact match and F1 of answer texts, as an `evaluate.Metric` that works offline.

Used directly (`from elmo_hf.metrics import AnswerSpans`) or as a local module (`evaluate.load("path/to/spans.py")`);
the file therefore imports nothing but its neighbor. The counting is that of SQuAD's two evaluation scripts.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import datasets

from .checking import CheckedMetric

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(?:a|an|the)\b")


class AnswerSpans(CheckedMetric):
    """Exact match and F1 of answers.

    Args:
        predictions: one answer per question; the empty string for "no answer".
        references: the gold answers of each question, a list of texts; empty for a question without an answer (version
            2).
        version: version of SQuAD's script, 1 or 2. Both compare lower-cased words without ASCII punctuation and without
            the articles a, an, the, and take the best of a question's references. Version 2 supports questions without
            an answer, drops references that become empty, and gives two empty texts an F1 of 1; in version 1 it is 0.

    Returns:
        `exact_match` and `f1`, shares from 0.0 to 1.0 (the scripts print the same times 100), and `total`, the number
        of questions. If there are questions with and without an answer, also the same three for each kind, prefixed
        with `has_answer_` and `no_answer_`.

    Raises:
        ValueError: nothing to score, lists of different lengths, references that are not lists of texts, an unknown
            version, or no reference for a question in version 1.
    """

    description = (
        "Exact match and word F1 of answer texts against one or more gold answers each, as in SQuAD 1.1 and 2.0."
    )
    citation = """
@inproceedings{rajpurkar-etal-2018-know,
    title = "Know What You Don{'}t Know: Unanswerable Questions for {SQ}u{AD}",
    author = "Rajpurkar, Pranav and Jia, Robin and Liang, Percy",
    booktitle = "Proceedings of the 56th Annual Meeting of the Association for Computational Linguistics",
    year = "2018",
    url = "https://aclanthology.org/P18-2124",
}
"""
    home = "https://rajpurkar.github.io/SQuAD-explorer"
    scored = "answers"

    def input_features(self) -> datasets.Features:
        text = datasets.Value("string")
        return datasets.Features({"predictions": text, "references": datasets.Sequence(text)})

    def check(self, predictions: Any, references: Any) -> None:
        """Raise `ValueError` unless predictions are texts and references lists of texts."""
        self.check_numbers(predictions, references, "one answer per question and the list of its gold answers")
        for number, (predicted, gold) in enumerate(zip(predictions, references)):
            if not isinstance(predicted, str):
                raise ValueError(f'question {number}: predicted {predicted!r}: expected a text, "" for no answer')
            if not isinstance(gold, (list, tuple)) or not all(isinstance(text, str) for text in gold):
                raise ValueError(f"question {number}: references {gold!r}: expected a list of texts, [] for no answer")

    def _compute(self, predictions: list[str], references: list[list[str]], version: int = 2) -> dict[str, Any]:
        self.check(predictions, references)
        if version not in (1, 2):
            raise ValueError(f"version={version!r}: expected 1 or 2, as of SQuAD")
        if version == 1 and not all(references):
            number = next(index for index, gold in enumerate(references) if not gold)
            raise ValueError(f"question {number} has no reference: expected an answer, or version=2 for none")

        rows = []
        for predicted, gold in zip(predictions, references):
            has_answer = any(gold)
            if version == 2:
                gold = [text for text in gold if normalize_answer(text)] or [""]
            exact = max(normalize_answer(predicted) == normalize_answer(text) for text in gold)
            rows.append((has_answer, float(exact), max(word_f1(predicted, text, version) for text in gold)))

        scores = _means(rows, lambda has_answer: True, "")
        kinds = {has_answer for has_answer, *_ in rows}
        if len(kinds) == 2:
            scores |= _means(rows, lambda has_answer: has_answer, "has_answer_")
            scores |= _means(rows, lambda has_answer: not has_answer, "no_answer_")
        return scores


def _means(rows: Sequence[tuple[bool, float, float]], counts: Callable[[bool], bool], prefix: str) -> dict[str, Any]:
    """Means over the rows (has an answer, exact match, F1) selected by `counts`."""
    kept = [row for row in rows if counts(row[0])]
    return {
        f"{prefix}exact_match": sum(row[1] for row in kept) / len(kept),
        f"{prefix}f1": sum(row[2] for row in kept) / len(kept),
        f"{prefix}total": len(kept),
    }


def normalize_answer(text: str) -> str:
    """Lower-case, remove ASCII punctuation, remove articles, and normalize spaces, in this order, as in SQuAD."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def word_f1(predicted: str, gold: str, version: int = 2) -> float:
    """Harmonic mean of precision and recall of the normalized words, counted with multiplicity."""
    predicted_words, gold_words = normalize_answer(predicted).split(), normalize_answer(gold).split()
    if version == 2 and not (predicted_words and gold_words):
        return float(predicted_words == gold_words)
    common = (Counter(predicted_words) & Counter(gold_words)).total()
    # 2pr / (p + r) with p = common / predicted and r = common / gold.
    return 2 * common / (len(predicted_words) + len(gold_words)) if common else 0.0
