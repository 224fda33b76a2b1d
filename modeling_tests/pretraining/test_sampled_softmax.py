"""Sampled softmax: the sampler's distribution, TensorFlow's formula, its limit, and the chunked loss."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from elmo_hf.pretraining import chunked_softmax
from elmo_hf.pretraining.chunked_softmax import chunked_sampled_loss, chunked_softmax_loss
from elmo_hf.pretraining.sampled_softmax import (
    LogUniformSampler,
    accidental_hits,
    gather_rows,
    log_expected_count,
    sampled_softmax_reference,
)


def log_uniform(words: int) -> np.ndarray:
    """The log-uniform distribution, by its definition."""
    ranks = np.arange(words)
    return np.log((ranks + 2) / (ranks + 1)) / np.log(words + 1)


class TestSampler:
    def test_candidates_are_distinct_words(self) -> None:
        sampler = LogUniformSampler(1000, 200, seed=5)
        for _ in range(20):
            ranks, tries = sampler.draw()
            assert ranks.shape == (200,)
            assert (ranks.diff() > 0).all()
            assert ranks[0] >= 0
            assert ranks[-1] < 1000
            assert tries >= 200

    def test_the_state_counts_draws(self) -> None:
        """Draws are numbered, so that a run continues from the number alone."""
        sampler, other = LogUniformSampler(50, 10, seed=3), LogUniformSampler(50, 10, seed=3)
        drawn = [sampler.draw().ranks.tolist() for _ in range(4)]
        assert sampler.draws == 4
        for number in (3, 0, 2):
            other.draws = number
            assert other.draw().ranks.tolist() == drawn[number] and other.draws == number + 1

    def test_all_words(self) -> None:
        ranks, tries = LogUniformSampler(300, 300).draw()
        assert torch.equal(ranks, torch.arange(300))
        assert tries > 300

    def test_one_word(self) -> None:
        assert LogUniformSampler(1, 1).draw() == (torch.tensor([0]), 1)

    @pytest.mark.slow
    def test_single_draws_are_log_uniform(self) -> None:
        words, draws = 20, 20_000
        sampler = LogUniformSampler(words, 1, seed=1)
        counts = np.bincount([int(sampler.draw().ranks) for _ in range(draws)], minlength=words)
        expected = log_uniform(words) * draws
        # Chi-square with 19 degrees of freedom: below 43.8 with probability 0.999.
        assert ((counts - expected) ** 2 / expected).sum() < 43.8

    @pytest.mark.slow
    def test_distinct_draws_match_one_by_one_drawing(self) -> None:
        """Inclusion of each word and number of tries, against drawing word after word until enough are found."""
        words, samples, draws = 12, 6, 4000
        sampler, generator = LogUniformSampler(words, samples, seed=2), np.random.default_rng(2)
        ours, plain, tries = np.zeros(words), np.zeros(words), [0, 0]
        for _ in range(draws):
            candidates = sampler.draw()
            ours[candidates.ranks.numpy()] += 1
            tries[0] += candidates.tries
            found: set[int] = set()
            while len(found) < samples:
                found.add(int(generator.choice(words, p=log_uniform(words))))
                tries[1] += 1
            plain[list(found)] += 1
        # Four standard errors of the difference of two proportions, and of two means.
        np.testing.assert_allclose(ours / draws, plain / draws, atol=4 * math.sqrt(2 * 0.25 / draws))
        assert tries[0] / draws == pytest.approx(tries[1] / draws, abs=0.5)

    def test_a_draw_depends_on_seed_and_number_only(self) -> None:
        one, other = LogUniformSampler(500, 50, seed=7), LogUniformSampler(500, 50, seed=1)
        one.draw()
        other.load_state_dict(one.state_dict())
        for _ in range(3):
            mine, its = one.draw(), other.draw()
            assert torch.equal(mine.ranks, its.ranks)
            assert mine.tries == its.tries
        assert not torch.equal(one.draw().ranks, one.draw().ranks)
        assert not torch.equal(LogUniformSampler(500, 50, seed=8).draw().ranks, LogUniformSampler(500, 50).draw().ranks)

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match="num_samples=11.*1.*10"):
            LogUniformSampler(10, 11)
        with pytest.raises(ValueError, match="num_samples=0"):
            LogUniformSampler(10, 0)
        with pytest.raises(ValueError, match="seed=-1"):
            LogUniformSampler(10, 1, seed=-1)
        with pytest.raises(ValueError, match="num_words=10.*12"):
            LogUniformSampler(12, 3).load_state_dict(LogUniformSampler(10, 3).state_dict())


@pytest.mark.parametrize("words", [10, 800_000])
@pytest.mark.parametrize(("tries", "samples"), [(8, 8), (13, 8)])
def test_expected_count(words: int, tries: int, samples: int) -> None:
    p = log_uniform(words)
    expected = p * samples if tries == samples else -np.expm1(tries * np.log1p(-p))
    found = log_expected_count(torch.arange(words), tries, samples, words)
    np.testing.assert_allclose(found.numpy(), np.log(expected), atol=1e-9)


def problem(words: int = 50, samples: int = 12, n: int = 30, width: int = 5, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    ranks, tries = LogUniformSampler(words, samples, seed).draw()
    return {
        "hidden": torch.randn(n, width, generator=generator, dtype=torch.float64),
        "weight": torch.randn(words, width, generator=generator, dtype=torch.float64),
        "bias": torch.randn(words, generator=generator, dtype=torch.float64),
        "labels": torch.randint(words, (n,), generator=generator),
        "ranks": ranks,
        "tries": tries,
    }


def formula(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, ranks: Tensor, tries: int) -> np.ndarray:
    """The sampled loss word by word, in NumPy, from the definition."""
    p = log_uniform(len(bias))
    count = p * len(ranks) if tries == len(ranks) else -np.expm1(tries * np.log1p(-p))
    logits = (hidden @ weight.T + bias).detach().numpy() - np.log(count)
    losses = []
    for row, label in zip(logits, labels.tolist(), strict=True):
        others = [rank for rank in ranks.tolist() if rank != label]  # accidental hits are removed
        losses.append(np.log(np.exp(row[others]).sum() + np.exp(row[label])) - row[label])
    return np.array(losses)


def plain(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, ranks: Tensor, tries: int) -> Tensor:
    """The loss computed by the reference functions."""

    def log_count(of: Tensor) -> Tensor:
        return log_expected_count(of, tries, len(ranks), len(bias)).to(bias.dtype)

    true_logits = (hidden * weight[labels]).sum(1) + bias[labels] - log_count(labels)
    return sampled_softmax_reference(
        hidden, true_logits, weight[ranks], bias[ranks] - log_count(ranks), accidental_hits(labels, ranks)
    )


@pytest.mark.parametrize("tries", [None, 12], ids=["tries", "tries=samples"])
def test_formula(tries: int | None) -> None:
    given = problem()
    given["tries"] = tries or given["tries"]
    assert (accidental_hits(given["labels"], given["ranks"]) >= 0).any(), "some labels must be among the samples"
    np.testing.assert_allclose(plain(**given).numpy(), formula(**given), atol=1e-12)


@pytest.mark.slow
def test_tensorflow() -> None:
    """TensorFlow's sampler and loss themselves."""
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    given = problem()
    labels = given["labels"].numpy()[:, None]
    sampled, true_count, count = tf.random.log_uniform_candidate_sampler(
        labels, num_true=1, num_sampled=12, unique=True, range_max=50, seed=3
    )
    # TensorFlow does not return the number of tries; one number must explain all expected counts.
    ranks = torch.from_numpy(sampled.numpy())

    def error(tries: int) -> float:
        ours = log_expected_count(ranks, tries, 12, 50).numpy()
        return float(np.abs(np.exp(ours) - count.numpy()).max())

    tries = min(range(12, 200), key=error)
    assert error(tries) < 1e-6
    np.testing.assert_allclose(
        log_expected_count(given["labels"], tries, 12, 50).exp().numpy(), true_count.numpy()[:, 0], atol=1e-6
    )
    loss = tf.nn.sampled_softmax_loss(
        weights=tf.constant(given["weight"].float().numpy()),
        biases=tf.constant(given["bias"].float().numpy()),
        labels=labels,
        inputs=tf.constant(given["hidden"].float().numpy()),
        num_sampled=12,
        num_classes=50,
        num_true=1,
        sampled_values=(sampled, true_count, count),
    )
    given |= {"ranks": ranks.sort().values, "tries": tries}
    np.testing.assert_allclose(plain(**given).numpy(), loss.numpy(), atol=1e-5)


@pytest.mark.slow
def test_gradient_approaches_the_full_softmax() -> None:
    """With more samples, the mean gradient of many draws approaches that of the full softmax."""
    given = problem(words=200, n=8)
    hidden = given["hidden"].requires_grad_()
    full = functional.cross_entropy(hidden @ given["weight"].T + given["bias"], given["labels"])
    (expected,) = torch.autograd.grad(full, hidden)
    errors = []
    for samples in (5, 20, 80):
        sampler, mean, draws = LogUniformSampler(200, samples, seed=3), torch.zeros_like(hidden), 400
        for _ in range(draws):
            candidates = sampler.draw()
            loss = plain(**{**given, "ranks": candidates.ranks, "tries": candidates.tries}).mean()
            mean += torch.autograd.grad(loss, hidden)[0] / draws
        errors.append(float((mean - expected).norm() / expected.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05


@pytest.mark.parametrize("logits_at_a_time", [1, 2**21])
class TestChunked:
    """The loss that never holds all logits at once, against plain autograd; also in several chunks."""

    # More words than the smallest chunk, and not a multiple of it.
    words = 600

    @pytest.fixture(autouse=True)
    def chunks(self, logits_at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(chunked_softmax.LOGITS_AT_A_TIME, "cpu", logits_at_a_time)

    def test_full(self) -> None:
        given = problem(n=self.words)
        inputs = [given[name].requires_grad_() for name in ("hidden", "weight", "bias")]
        shares = torch.rand(self.words, dtype=torch.float64).index_fill(0, torch.tensor([0, 9]), 0.0)
        bias = inputs[2].index_fill(0, torch.tensor([3]), float("-inf"))
        labels = given["labels"].where(given["labels"] != 3, 4)
        nll = functional.cross_entropy(inputs[0] @ inputs[1].T + bias, labels, reduction="none")
        loss, found = chunked_softmax_loss(inputs[0], inputs[1], bias, labels, shares)
        torch.testing.assert_close(found, nll.detach(), atol=1e-12, rtol=0)
        for ours, expected in zip(
            torch.autograd.grad(3 * loss, inputs, retain_graph=True),
            torch.autograd.grad(3 * (nll * shares).sum(), inputs),
            strict=True,
        ):
            torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)

    @pytest.mark.parametrize("samples", [12, 1])
    def test_sampled(self, samples: int) -> None:
        given = problem(n=self.words, samples=samples)
        assert (given["labels"] == given["ranks"][0]).any()
        hits = accidental_hits(given["labels"], given["ranks"])
        inputs = [given["hidden"], torch.randn(self.words).double(), given["weight"][:samples], given["bias"][:samples]]
        inputs = [tensor.clone().requires_grad_() for tensor in inputs]
        shares = torch.rand(self.words, dtype=torch.float64)
        nll = sampled_softmax_reference(*inputs, hits)
        loss, found = chunked_sampled_loss(*inputs, hits, shares)
        torch.testing.assert_close(found, nll.detach(), atol=1e-12, rtol=0)
        for ours, expected in zip(
            torch.autograd.grad(loss, inputs), torch.autograd.grad((nll * shares).sum(), inputs), strict=True
        ):
            torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)

    def test_large_logits(self) -> None:
        given = problem(n=self.words)
        hidden, weight = 1000 * given["hidden"], given["weight"]
        shares = torch.ones(self.words, dtype=torch.float64)
        _, found = chunked_softmax_loss(hidden, weight, given["bias"], given["labels"], shares)
        nll = functional.cross_entropy(hidden @ weight.T + given["bias"], given["labels"], reduction="none")
        torch.testing.assert_close(found, nll, atol=1e-9, rtol=0)


def test_loss_of_frozen_rows_gives_no_gradient_to_them() -> None:
    given = problem()
    shares = torch.ones(30, dtype=torch.float64)
    hidden = given["hidden"].requires_grad_()
    loss, _ = chunked_softmax_loss(hidden, given["weight"], given["bias"], given["labels"], shares)
    loss.backward()
    assert hidden.grad is not None
    assert given["weight"].grad is None
    with torch.no_grad():
        loss, _ = chunked_softmax_loss(hidden, given["weight"], given["bias"], given["labels"], shares)
    assert not loss.requires_grad


@pytest.mark.parametrize("width", [(), (3,)], ids=["vector", "matrix"])
def test_gathered_rows(width: tuple[int, ...]) -> None:
    index, outer = torch.tensor([1, 4, 6]), torch.randn(3, *width)
    gradients = []
    for sparse in (False, True):
        weight = torch.arange(8.0).view(8, *[1 for _ in width]).expand(8, *width).clone().requires_grad_()
        rows = gather_rows(weight, index, sparse_gradient=sparse)
        assert torch.equal(rows, weight[index])
        rows.backward(outer)
        gradients.append(weight.grad)
    assert gradients[1].is_sparse
    assert torch.equal(gradients[1].to_dense(), gradients[0])
