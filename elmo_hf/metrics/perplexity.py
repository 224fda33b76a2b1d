"""Perplexity as an `evaluate.Metric` that works offline: from log-probabilities, or of texts to a biLM.

Used directly (`from elmo_hf.metrics import Perplexity`) or as a local module
(`evaluate.load("path/to/perplexity.py")`).
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

DESCRIPTION = (
    "exp of the mean negative log-probability of all words. Every word counts once: unlike in a mean of sentences' "
    "perplexities or of batches' losses, neither short sentences nor small batches weigh more."
)


CITATION = """
@article{jelinek1977perplexity,
    title = {Perplexity---a measure of the difficulty of speech recognition tasks},
    author = {Jelinek, Frederick and Mercer, Robert L and Bahl, Lalit R and Baker, James K},
    journal = {The Journal of the Acoustical Society of America},
    volume = {62},
    number = {S1},
    pages = {S63--S63},
    year = {1977},
}
"""


class Perplexity(evaluate.Metric):
    """Perplexity of all words.

    Args:
        predictions: for each sentence a list of natural log-probabilities, one per predicted word; or, with `model`, a
            text or a list of words.
        model: for texts, an `ElmoForPreTraining` or the folder of its checkpoint.
        tokenizer: the model's tokenizer; by default the one in its checkpoint's folder.
        batch_size: sentences per batch; results do not depend on it.

    Returns:
        `perplexity` and `loss` (its logarithm, nats per word), both floats, infinite if a probability is zero;
        `perplexities`, one float per sentence; `targets` (int), the number of predictions. With a model, perplexities
        are geometric means of both directions, each sentence starts from zero states, and its boundary is predicted
        too; also `forward_perplexity` and `backward_perplexity` (floats), `words` and `unknown_words` (ints).

    Raises:
        ValueError: nothing to score, texts without a model or numbers with one, or a number that is not a
            log-probability.
    """

    def _info(self) -> evaluate.MetricInfo:
        # Lists of words first, so that an empty list counts as an empty sentence.
        kinds = (
            datasets.Sequence(datasets.Value("string")),
            datasets.Value("string"),
            datasets.Sequence(datasets.Value("float64")),
        )
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=inspect.getdoc(type(self)),
            features=[datasets.Features({"predictions": kind}) for kind in kinds],
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, Any] | None:
        """Score `predictions`; if `None`, the data collected by `add` and `add_batch`."""
        # Checked here because the base class reports empty input with an error about its cache file.
        if references is not None:
            raise ValueError("references given: perplexity is of predictions alone")
        if predictions is not None:
            _check(predictions, options.get("model"))
        elif len(self) == 0 and self.process_id == 0:
            raise ValueError("no sentences to score: give predictions, or call add_batch before")
        # Not super(): evaluate copies this function into each instance, without its class cell.
        return evaluate.Metric.compute(self, predictions=predictions, references=None, **options)

    def _compute(
        self, predictions: Sequence[Any], model: Any = None, tokenizer: Any = None, batch_size: int = 32
    ) -> dict[str, Any]:
        sentences = list(predictions)
        _check(sentences, model)
        if model is not None:
            return _of_texts(sentences, model, tokenizer, batch_size)
        losses = [-math.fsum(sentence) for sentence in sentences]
        counts = [len(sentence) for sentence in sentences]
        loss = math.fsum(losses) / sum(counts)
        return {
            "perplexity": _exp(loss),
            "loss": float(loss),
            "perplexities": [_exp(each / count) for each, count in zip(losses, counts)],
            "targets": sum(counts),
        }


def _of_texts(sentences: list[Any], model: Any, tokenizer: Any, batch_size: int) -> dict[str, Any]:
    from elmo_hf.inference.scoring import score

    scores = score(sentences, model, tokenizer, batch_size=batch_size, progress=False)
    total = scores.total
    return {
        "perplexity": float(total.both),
        "loss": -total.log_prob / total.targets,
        "perplexities": scores.both.tolist(),
        "targets": total.targets,
        "forward_perplexity": float(total.forward),
        "backward_perplexity": float(total.backward),
        "words": total.words,
        "unknown_words": total.unknown,
    }


def _check(predictions: Any, model: Any) -> None:
    """Check that predictions are texts if there is a model, and log-probabilities otherwise.

    Raises:
        ValueError: as in the module's inputs description; the message names sentence and value.
    """
    if isinstance(predictions, str):
        raise ValueError(f"predictions is the text {predictions!r}: expected a list of texts")
    if len(predictions) == 0:
        raise ValueError("no sentences to score: predictions are empty")
    for number, sentence in enumerate(predictions):
        values: Any = [sentence] if isinstance(sentence, str) else sentence
        if model is None and len(values) == 0:
            raise ValueError(f"sentence {number} has no log-probabilities: expected one for each word predicted")
        for value in values:
            if isinstance(value, str) and model is None:
                raise ValueError(f"sentence {number} is text, {value!r}: give the model that scores it")
            if not isinstance(value, str) and model is not None:
                raise ValueError(f"sentence {number} holds {value!r}: a model scores texts; leave it out for numbers")
            if model is None and not value <= 0:
                raise ValueError(
                    f"sentence {number} holds {value!r}, no log-probability: expected natural logarithms, 0 or less"
                )


def _exp(loss: float) -> float:
    """exp(loss), or infinity if it overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
