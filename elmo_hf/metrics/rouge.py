"""ROUGE of summaries as an `evaluate.Metric` that works offline; the counting is that of the rouge_score library.

Used directly (`from elmo_hf.metrics import Rouge`) or as a local module (`evaluate.load("path/to/rouge.py")`).
"""

import re
from collections.abc import Callable, Sequence

from .checking import GeneratedTextMetric

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class _Words:
    """Adapter from a word-splitting function to the library's tokenizer interface."""

    def __init__(self, tokenize: Callable[[str], list[str]]) -> None:
        self.tokenize = tokenize


def unicode_words(text: str) -> list[str]:
    """Split a text into runs of letters and digits, in lower case."""
    return re.findall(r"[^\W_]+", text.lower())


class Rouge(GeneratedTextMetric):
    """Mean ROUGE F1.

    Args:
        predictions: summaries as texts; for `rougeLsum` with one sentence per line.
        references: for each prediction a text, or a list of alternatives of which the best counts.
        rouge_types: names of the scores: "rouge1", "rouge2", ..., "rougeL", "rougeLsum".
        tokenizer: "english" (default, as in the original: lower case, runs of a-z and 0-9), "unicode" (lower case, runs
            of letters and digits of any script, for languages whose letters "english" would drop), or a function from a
            text to its words.
        use_stemmer: strip English suffixes (Porter); with the "english" tokenizer only.

    Returns:
        The mean F1 of all texts under each name, a float from 0 to 1.

    Raises:
        ValueError: nothing to score, different numbers of texts, a value that is not a text, or an unknown option.
        ImportError: rouge_score is not installed.
    """

    description = "ROUGE-1, ROUGE-2, ROUGE-L and summary-level ROUGE-L (Lin 2004), F1, by the rouge_score library."
    citation = """
@inproceedings{lin-2004-rouge,
    title = "{ROUGE}: A Package for Automatic Evaluation of Summaries",
    author = "Lin, Chin-Yew",
    booktitle = "Text Summarization Branches Out",
    year = "2004",
    url = "https://aclanthology.org/W04-1013",
}
"""
    home = "https://github.com/google-research/google-research/tree/master/rouge"

    def _compute(
        self,
        predictions: list[str],
        references: list[str] | list[list[str]],
        rouge_types: Sequence[str] = ROUGE_TYPES,
        tokenizer: str | Callable[[str], list[str]] = "english",
        use_stemmer: bool = False,
    ) -> dict[str, float]:
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError as error:
            raise ImportError("ROUGE needs rouge_score: pip install rouge-score, or 'elmo-hf[train]'") from error
        for name in rouge_types:
            if not re.fullmatch(r"rouge([1-9]|L|Lsum)", name):
                raise ValueError(f"rouge_types holds {name!r}: expected rouge1 to rouge9, rougeL or rougeLsum")
        if tokenizer not in ("english", "unicode") and not callable(tokenizer):
            raise ValueError(f'tokenizer={tokenizer!r}: expected "english", "unicode" or a function')
        if use_stemmer and tokenizer != "english":
            raise ValueError('use_stemmer=True: the stemmer knows English only; expected tokenizer="english"')
        words = None if tokenizer == "english" else _Words(tokenizer if callable(tokenizer) else unicode_words)
        scorer = RougeScorer(list(rouge_types), use_stemmer=use_stemmer, tokenizer=words)
        texts, alternatives = self.check(predictions, references)
        scores = [scorer.score_multi(given, text) for text, given in zip(texts, alternatives)]
        return {name: sum(float(score[name].fmeasure) for score in scores) / len(scores) for name in rouge_types}
