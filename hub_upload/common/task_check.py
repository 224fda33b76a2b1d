"""Comparison of a converted task model with the plain implementation of its archive."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from elmo_hf import ElmoTokenizer

from .errors import CheckpointError
from .plain import Plain, PlainTask, TaskAnswer

# AllenNLP's own float32 logits differ by 8e-6 from float64; likelihoods sum such differences over a sentence.
LOGITS_TOLERANCE, LIKELIHOOD_TOLERANCE = 5e-5, 1e-4

Sentences = list[list[str]]


@dataclass(frozen=True)
class TaskReport:
    """Differences between a task model and its archive, for single sentences, in a batch, and with carried state.

    Attributes:
        logits: Largest absolute difference of logits (of a tagger: before the CRF).
        log_likelihoods: Largest difference for the best tags of each sentence; 0 for a classifier.
        different: Number of sentences with another label, or with tags of a lower score, than in the archive.
        sentences: Number of compared sentences.
        logits_magnitude, score_magnitude: Largest absolute logit of the archive, and score of its best tags.
    """

    logits: float
    log_likelihoods: float
    different: int
    sentences: int
    logits_magnitude: float = 1.0
    score_magnitude: float = 1.0

    @property
    def logits_tolerance(self) -> float:
        """Tolerance of logits, relative for values beyond 1, since float32 rounds larger values more."""
        return LOGITS_TOLERANCE * max(1.0, self.logits_magnitude)

    @property
    def likelihood_tolerance(self) -> float:
        """Tolerance of log-likelihoods, likewise."""
        return LIKELIHOOD_TOLERANCE * max(1.0, self.score_magnitude)

    @property
    def passed(self) -> bool:
        """True if all differences are numbers within their tolerances, and all labels and tags agree."""
        bounds = (self.logits, self.logits_tolerance), (self.log_likelihoods, self.likelihood_tolerance)
        return not self.different and all(math.isfinite(value) and value <= bound for value, bound in bounds)


def compare_task(
    model: Any,
    tokenizer: ElmoTokenizer,
    plain: PlainTask,
    elmo: Plain,
    sentences: Sentences,
    carried: Sequence[Sentences],
) -> TaskReport:
    """Compare a model with the plain implementation.

    Args:
        model, tokenizer: The converted model.
        plain: Plain implementation of the archive on top of `elmo`.
        elmo: Plain language model; its state is cleared.
        sentences: Sentences to compare one by one and in one batch.
        carried: Consecutive batches to compare with carried state.
    """
    logits: list[float] = []
    likelihoods: list[float] = [0.0]
    magnitudes: list[float] = []
    scores: list[float] = [0.0]
    different = 0
    for batches, carries in (([[one] for one in sentences], False), ([sentences], False), (carried, True)):
        state = None
        elmo.state.clear()
        for batch in batches:
            if not carries:
                elmo.state.clear()
            encoding = tokenizer(batch, is_split_into_words=True, padding=True, return_tensors="pt")
            with torch.no_grad():
                output = model(**encoding, initial_state=state, return_state=True)
            state = output.state if carries else None
            for row, (words, answer) in enumerate(zip(batch, plain.answer(batch), strict=True)):
                if answer.tags is None:
                    found = output.logits[row].double().numpy()
                    different += int(found.argmax() != answer.logits.argmax())
                else:
                    inside = model.without_boundaries(
                        encoding["attention_mask"][row].bool(), encoding["input_ids"][row]
                    )
                    found = output.emissions[row, inside].double().numpy()
                    tags = output.logits[row, inside].argmax(-1)
                    different += _is_worse(tags.tolist(), answer)
                    likelihood = _log_likelihood(model, output.emissions[row, inside], answer.tags)
                    scores.append(abs(answer.score(answer.tags)))
                    likelihoods.append(abs(likelihood - answer.log_likelihood(answer.tags)))
                if found.shape != answer.logits.shape:
                    raise CheckpointError(
                        f"the model gives scores of shape {found.shape} for {' '.join(words)!r}, expected "
                        f"{answer.logits.shape}"
                    )
                logits.append(float(np.abs(found - answer.logits).max()))
                magnitudes.append(float(np.abs(answer.logits).max()))
    elmo.state.clear()
    # np.max propagates NaN; max() would not.
    largest = (float(np.max(values)) for values in (magnitudes, scores))
    return TaskReport(float(np.max(logits)), float(np.max(likelihoods)), different, len(logits), *largest)


def _is_worse(tags: list[int], answer: TaskAnswer) -> bool:
    """True if tags differ from the best ones and have a lower score, beyond rounding."""
    assert answer.tags is not None
    if tags == answer.tags:
        return False
    best = answer.score(answer.tags)
    return len(tags) != len(answer.tags) or best - answer.score(tags) > LIKELIHOOD_TOLERANCE * max(1.0, abs(best))


def _log_likelihood(model: Any, emissions: torch.Tensor, tags: list[int]) -> float:
    """Log-likelihood of the tags of one sentence, without the label weights of training."""
    words = torch.ones(1, len(emissions), dtype=torch.bool)
    with torch.no_grad():
        return float(model.crf.log_likelihood(emissions.unsqueeze(0), torch.tensor([tags]), words, is_weighted=False))
