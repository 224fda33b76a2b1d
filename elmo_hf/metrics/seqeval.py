"""Entity-level precision, recall and F1 of tag sequences, as an `evaluate.Metric` that works offline.

Used directly (`from elmo_hf.metrics import Seqeval`) or as a local module (`evaluate.load("path/to/seqeval.py")`); the
file therefore imports nothing but its neighbor. The counting is seqeval's, which reproduces `conlleval`.
"""

from typing import Any

import datasets
from seqeval.metrics import accuracy_score, classification_report
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, IOE1, IOE2

from .checking import CheckedMetric

SCHEMES = {
    "IOB1": IOB1,
    "IOB2": IOB2,
    "BIO": IOB2,
    "IOE1": IOE1,
    "IOE2": IOE2,
    "IOBES": IOBES,
    "BIOES": IOBES,
    "BILOU": BILOU,
}

PREFIXES = frozenset("BIESLU")

AVERAGES = ("micro avg", "macro avg", "weighted avg")


class Seqeval(CheckedMetric):
    """Entity-level scores of tag sequences.

    Args:
        predictions: one list of predicted tags per sentence, such as `["B-PER", "I-PER", "O"]`.
        references: one list of gold tags per sentence, of the same lengths.
        scheme: `None` counts as `conlleval` does (an entity may start with `I-`); `"IOB2"` (also `"BIO"`), `"BIOES"`
            (also `"IOBES"`), `"IOB1"`, `"IOE1"`, `"IOE2"` and `"BILOU"` count only well-formed entities of that scheme.

    Returns:
        `overall_precision`, `overall_recall`, `overall_f1` (micro averages, 0.0 where undefined), `overall_accuracy`
        (share of equal tags), all floats; and for each entity type a dictionary of `precision`, `recall`, `f1` (floats)
        and `number` (int, entities of that type in `references`).

    Raises:
        ValueError: nothing to score, lists of different lengths, a tag that is neither `O` nor `PREFIX-TYPE`, or an
            unknown scheme.
    """

    description = (
        "Entity precision, recall and F1 per type and overall, and token accuracy, of IOB- or BIOES-like tags."
    )
    citation = """
@inproceedings{ramshaw-marcus-1995-text,
    title = "Text Chunking using Transformation-Based Learning",
    author = "Ramshaw, Lance and Marcus, Mitch",
    booktitle = "Third Workshop on Very Large Corpora",
    year = "1995",
    url = "https://aclanthology.org/W95-0107",
}
@misc{seqeval,
    title = {{seqeval}: A Python framework for sequence labeling evaluation},
    author = {Hiroki Nakayama},
    year = {2018},
    url = {https://github.com/chakki-works/seqeval},
}
"""
    home = "https://github.com/chakki-works/seqeval"
    scored = "sentences"

    def input_features(self) -> datasets.Features:
        tags = datasets.Sequence(datasets.Value("string"))
        return datasets.Features({"predictions": tags, "references": tags})

    def check(self, predictions: Any, references: Any) -> None:
        """Raise `ValueError` unless both are lists of tags of the same lengths."""
        self.check_numbers(predictions, references, "one list of tags per sentence for both predictions and references")
        for number, (predicted, reference) in enumerate(zip(predictions, references)):
            if isinstance(predicted, str) or isinstance(reference, str):
                raise ValueError(f"sentence {number} is a string: expected a list of tags")
            if len(predicted) != len(reference):
                raise ValueError(
                    f"sentence {number} has {len(predicted)} predicted and {len(reference)} reference tags: expected "
                    "the same words in both; leave out the positions that are only padding"
                )

    def _compute(
        self, predictions: list[list[str]], references: list[list[str]], scheme: str | None = None
    ) -> dict[str, Any]:
        self.check(predictions, references)
        if scheme is not None and scheme not in SCHEMES:
            raise ValueError(f"scheme={scheme!r}: expected None or one of {', '.join(SCHEMES)}")
        tags = {tag for sentences in (predictions, references) for sentence in sentences for tag in sentence}
        for tag in sorted(tags):
            _check_tag(tag)
        if not any(map(len, references)):
            raise ValueError(f"no tags to score: all {len(references)} sentences are empty")

        scores = {"overall_precision": 0.0, "overall_recall": 0.0, "overall_f1": 0.0}
        types: dict[str, Any] = {}
        if tags != {"O"}:  # seqeval cannot average over no types at all
            report = classification_report(
                references,
                predictions,
                output_dict=True,
                zero_division=0,
                mode=None if scheme is None else "strict",
                scheme=None if scheme is None else SCHEMES[scheme],
            )
            micro, *_ = (report.pop(average) for average in AVERAGES)
            scores = {
                "overall_precision": float(micro["precision"]),
                "overall_recall": float(micro["recall"]),
                "overall_f1": float(micro["f1-score"]),
            }
            types = {
                name: {
                    "precision": float(row["precision"]),
                    "recall": float(row["recall"]),
                    "f1": float(row["f1-score"]),
                    "number": int(row["support"]),
                }
                for name, row in report.items()
            }
        return {**types, **scores, "overall_accuracy": float(accuracy_score(references, predictions))}


def _check_tag(tag: str) -> None:
    prefix, dash, entity_type = tag.partition("-")
    if tag != "O" and not (prefix in PREFIXES and dash and entity_type):
        raise ValueError(
            f"tag {tag!r}: expected O or PREFIX-TYPE such as B-PER, with a prefix of {', '.join(sorted(PREFIXES))}; "
            "tags without spans (such as POS tags) have an accuracy but no entities"
        )
