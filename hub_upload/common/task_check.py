"""Compares what a converted task model says with the plain implementation of the archive it was made from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from elmo_hf import ElmoTokenizer

from .errors import CheckpointError
from .plain import Plain, PlainTask, TaskAnswer

# AllenNLP's own float32 is 8e-6 from float64 in the logits, and as far as the sum of a sentence's in its likelihood.
LOGITS_TOLERANCE, LIKELIHOOD_TOLERANCE = 5e-5, 1e-4

Sentences = list[list[str]]


@dataclass(frozen=True)
class TaskReport:
    """How far a task model is from its archive, over sentences alone, in a batch, and with carried state.

    Attributes:
        logits: Largest absolute difference of a classifier's logits, or a tagger's scores before its field.
        log_likelihoods: Of the best tags of each sentence; 0 for a classifier.
        different: Sentences with another label, or with tags of a lower score, than the archive gives.
        sentences: Sentences compared.
        logits_magnitude, score_magnitude: The largest absolute logit of the archive, and score of its best tags.
    """

    logits: float
    log_likelihoods: float
    different: int
    sentences: int
    logits_magnitude: float = 1.0
    score_magnitude: float = 1.0

    @property
    def logits_tolerance(self) -> float:
        """The bound of logits: of values beyond 1 a share, since float32 rounds them more."""
        return LOGITS_TOLERANCE * max(1.0, self.logits_magnitude)

    @property
    def likelihood_tolerance(self) -> float:
        """The bound of log likelihoods, likewise."""
        return LIKELIHOOD_TOLERANCE * max(1.0, self.score_magnitude)

    @property
    def passed(self) -> bool:
        """True if every difference is a number within its tolerance, and every label and tag is the archive's."""
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
        model, tokenizer: Of the folder.
        plain: Of the archive, over the language model `elmo`, whose state is cleared.
        sentences: To compare alone and in one batch.
        carried: Consecutive batches to compare with the state carried from each to the next.
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
    # np.max keeps a NaN, which max() would lose.
    largest = (float(np.max(values)) for values in (magnitudes, scores))
    return TaskReport(float(np.max(logits)), float(np.max(likelihoods)), different, len(logits), *largest)


def _is_worse(tags: list[int], answer: TaskAnswer) -> bool:
    """True if other tags than the best ones were found, and they score less by more than rounding."""
    assert answer.tags is not None
    if tags == answer.tags:
        return False
    best = answer.score(answer.tags)
    return len(tags) != len(answer.tags) or best - answer.score(tags) > LIKELIHOOD_TOLERANCE * max(1.0, abs(best))


def _log_likelihood(model: Any, emissions: torch.Tensor, tags: list[int]) -> float:
    """Of the tags of one sentence."""
    words = torch.ones(1, len(emissions), dtype=torch.bool)
    with torch.no_grad():
        return float(model.crf.log_likelihood(emissions.unsqueeze(0), torch.tensor([tags]), words))
