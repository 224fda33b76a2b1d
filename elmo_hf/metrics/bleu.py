"""BLEU of translations as an `evaluate.Metric` that works offline; the counting is sacrebleu's.

Used directly (`from elmo_hf.metrics import Bleu`) or as a local module (`evaluate.load("path/to/bleu.py")`).
"""

from typing import Any

from .checking import GeneratedTextMetric


class Bleu(GeneratedTextMetric):
    """Corpus BLEU.

    Args:
        predictions: translations, detokenized texts.
        references: for each prediction a text, or a list of alternatives.
        tokenize: sacrebleu's name of the tokenization: "13a" (default, that of mteval-v13a), "intl", "char", "zh",
            "none".
        lowercase: ignore case.
        smooth_method: "exp" (default), "floor", "add-k" or "none", for orders without a common n-gram.

    Returns:
        `bleu` (float, 0 to 100), `precisions` (four floats, 0 to 100), `brevity_penalty` (float), `prediction_length`
        and `reference_length` (int, tokens), `signature` (str, to be quoted with the score).

    Raises:
        ValueError: nothing to score, different numbers of texts, or a value that is not a text.
        ImportError: sacrebleu is not installed.
    """

    description = "Corpus BLEU (Papineni et al. 2002) by sacrebleu, with the signature that makes it comparable."
    citation = """
@inproceedings{papineni-etal-2002-bleu,
    title = "{B}leu: a Method for Automatic Evaluation of Machine Translation",
    author = "Papineni, Kishore and Roukos, Salim and Ward, Todd and Zhu, Wei-Jing",
    booktitle = "Proceedings of the 40th Annual Meeting of the Association for Computational Linguistics",
    year = "2002",
    url = "https://aclanthology.org/P02-1040",
}
@inproceedings{post-2018-call,
    title = "A Call for Clarity in Reporting {BLEU} Scores",
    author = "Post, Matt",
    booktitle = "Proceedings of the Third Conference on Machine Translation: Research Papers",
    year = "2018",
    url = "https://aclanthology.org/W18-6319",
}
"""
    home = "https://github.com/mjpost/sacrebleu"

    def _compute(
        self,
        predictions: list[str],
        references: list[str] | list[list[str]],
        tokenize: str = "13a",
        lowercase: bool = False,
        smooth_method: str = "exp",
    ) -> dict[str, Any]:
        try:
            from sacrebleu.metrics import BLEU
        except ImportError as error:
            raise ImportError("BLEU needs sacrebleu: pip install sacrebleu, or 'elmo-hf[train]'") from error
        texts, alternatives = self.check(predictions, references)
        # sacrebleu takes one list of all first references, one of all second references, ..., with None if missing.
        most = max(map(len, alternatives))
        streams: list[Any] = [[given[n] if n < len(given) else None for given in alternatives] for n in range(most)]
        metric = BLEU(tokenize=tokenize, lowercase=lowercase, smooth_method=smooth_method)
        score = metric.corpus_score(texts, streams)
        return {
            "bleu": float(score.score),
            "precisions": [float(value) for value in score.precisions],
            "brevity_penalty": float(score.bp),
            "prediction_length": int(score.sys_len),
            "reference_length": int(score.ref_len),
            "signature": str(metric.get_signature()),
        }
