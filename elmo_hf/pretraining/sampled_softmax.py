"""Sampled softmax with log-uniform candidates, TensorFlow's formulas.

A softmax over hundreds of thousands of words costs more than the biLM below it. So in training the softmax of each word
is over the word itself and a few thousand sampled words. Every logit is corrected by the expected count of its word
among the samples; the gradient then approaches that of the full softmax.

Source: `tf.nn.sampled_softmax_loss`, `tf.random.log_uniform_candidate_sampler` (unique=True) and
`tensorflow/core/kernels/range_sampler.cc`; Jean et al. 2015, section 3.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Candidates(NamedTuple):
    """Distinct words sampled for all the words of one batch and direction.

    Attributes:
        ranks: [num_samples], int64, ascending; a word's rank is its line in the vocabulary file.
        tries: number of draws until that many distinct words were found.
    """

    ranks: Tensor
    tries: int


class LogUniformSampler:
    """Sampler of distinct words with P(rank) = ln((rank + 2) / (rank + 1)) / ln(num_words + 1), roughly Zipf's law.

    Draw number n is a function of the seed and n alone (a counter-based generator). So the numbers of `state_dict`
    resume the sequence exactly, and processes with the same seed draw the same words.

    Args:
        num_words: Words with a probability; the vocabulary must be sorted by descending frequency.
        num_samples: Distinct words of a draw.
        seed: Any non-negative integer below 2 ** 64.

    Raises:
        ValueError: more samples than words, or an impossible argument.
    """

    def __init__(self, num_words: int, num_samples: int, seed: int = 0) -> None:
        if not 1 <= num_samples <= num_words:
            raise ValueError(
                f"num_samples={num_samples}: expected 1 to {num_words}, the words of the vocabulary; lower it, or use "
                "the full softmax"
            )
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed={seed}: expected an integer from 0 to 2 ** 64 - 1")
        self.num_words = num_words
        self.num_samples = num_samples
        self.seed = seed
        self.draws = 0
        # Scratch space of a draw; only entries of `first_place` written in the same draw are read.
        self._first_place = np.zeros(num_words, dtype=np.int64)
        self._seen = np.zeros(num_words, dtype=bool)

    def state_dict(self) -> dict[str, int]:
        """All state of the next draw."""
        return {
            "seed": self.seed,
            "draws": self.draws,
            "num_words": self.num_words,
            "num_samples": self.num_samples,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the sequence of `state`.

        Raises:
            ValueError: a state of other sizes, for instance of another vocabulary.
        """
        for name in ("num_words", "num_samples"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the sampler's state has {name}={state[name]}, this sampler {getattr(self, name)}: resume with "
                    "the vocabulary and options the state was saved with, or start a new sampler"
                )
        self.seed, self.draws = int(state["seed"]), int(state["draws"])

    def draw(self) -> Candidates:
        """Draw the next candidates: words with replacement until `num_samples` distinct ones are found."""
        # The counter has 256 bits; each draw has its own range of 2 ** 128 numbers.
        generator = np.random.Philox(key=self.seed, counter=[0, 0, self.draws, 0])
        self.draws += 1
        found: list[np.ndarray] = []
        missing, tries = self.num_samples, 0
        while missing:
            # For a large vocabulary, twice as many draws as missing words nearly always suffice.
            words = self._words(generator.random_raw(2 * missing + 64))
            places = np.arange(len(words))
            # For repeated words the last assignment stays: in reversed order, the first place.
            self._first_place[words[::-1]] = places[::-1]
            new = (self._first_place[words] == places) & ~self._seen[words]
            new_places = np.flatnonzero(new)[:missing]
            found.append(words[new_places])
            self._seen[found[-1]] = True
            missing -= len(new_places)
            tries += len(words) if missing else int(new_places[-1]) + 1
        ranks = np.concatenate(found)
        self._seen[ranks] = False
        ranks.sort()
        return Candidates(torch.from_numpy(ranks), tries)

    def _words(self, bits: np.ndarray) -> np.ndarray:
        """Ranks (int64) from random bits (uint64), by inversion: floor(exp(u * ln(num_words + 1))) - 1."""
        uniform = (bits >> np.uint64(11)) * 2.0**-53
        ranks = np.exp(uniform * np.log1p(self.num_words)).astype(np.int64) - 1
        # exp may round up to num_words + 1; TensorFlow also takes the remainder.
        return ranks % self.num_words


def log_expected_count(ranks: Tensor, tries: int, num_samples: int, num_words: int) -> Tensor:
    """Logarithm ln Q of the expected count of each word among the candidates.

    With the word's log-uniform probability p, Q = 1 - (1 - p) ** tries, the probability that `tries` draws contain the
    word. If every draw was a new word (tries == num_samples), TensorFlow takes Q = p * num_samples.

    Args:
        ranks: any shape, int64.

    Returns:
        Shape of `ranks`; float64 if the device supports it, else float32.
    """
    wide = torch.float32 if ranks.device.type == "mps" else torch.float64
    probability = torch.log1p(1 / (ranks.to(wide) + 1)) / float(np.log1p(num_words))
    if tries == num_samples:
        count = probability * num_samples
    else:
        count = -torch.expm1(tries * torch.log1p(-probability))
    return count.log()


def sampled_softmax_reference(
    hidden: Tensor,
    true_logits: Tensor,
    candidate_weight: Tensor,
    candidate_bias: Tensor,
    hits: Tensor,
) -> Tensor:
    """Negative log-likelihood of each true word among itself and the candidates: the reference, in plain autograd.

    Args:
        hidden: [n, P], the contexts.
        true_logits: [n], logits of the true words, ln Q already subtracted.
        candidate_weight: [num_samples, P]; candidate_bias: [num_samples], ln Q already subtracted.
        hits: [n], int64: column of the candidate equal to the true word, which is removed; -1 for none.

    Returns:
        [n].
    """
    logits = functional.linear(hidden, candidate_weight, candidate_bias)
    columns = torch.arange(len(candidate_bias), device=hits.device)
    logits = logits.masked_fill(columns == hits[:, None], float("-inf"))
    logits = torch.cat([true_logits[:, None], logits], dim=1)
    return -functional.log_softmax(logits, dim=1)[:, 0]


def accidental_hits(labels: Tensor, candidates: Tensor) -> Tensor:
    """Position [n] of each label among the ascending candidates [num_samples]; -1 for a label that is not there."""
    place = torch.searchsorted(candidates, labels.contiguous()).clamp_(max=len(candidates) - 1)
    return torch.where(candidates[place] == labels, place, -1)


class _GatherRows(torch.autograd.Function):
    """Rows of a matrix (or entries of a vector) with a sparse gradient that holds only these rows."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = weight.shape
        return weight.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        # The index is ascending without repetition; declaring it coalesced avoids another sort.
        sparse = torch.sparse_coo_tensor(
            index.unsqueeze(0), gradient, ctx.size, check_invariants=False, is_coalesced=True
        )
        return sparse, None


def gather_rows(weight: Tensor, index: Tensor, *, sparse_gradient: bool) -> Tensor:
    """Return `weight[index]` for an ascending `index` [m] without repetition, with a sparse gradient on request.

    Args:
        sparse_gradient: `weight.grad` becomes a coalesced sparse tensor of m rows. A vocabulary of 800,000 words at
            512 dimensions would otherwise write 1.6 GB of zeros in each step.
    """
    if sparse_gradient:
        return _GatherRows.apply(weight, index)
    return weight.index_select(0, index)
