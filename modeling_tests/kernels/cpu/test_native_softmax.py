"""The softmax loss in C, compared with its definition in float64, gradients included."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from elmo_hf.kernels.cpu import native_softmax
from elmo_hf.kernels.cpu.builder import native_library
from elmo_hf.kernels.cpu.native_softmax import native_softmax_loss
from elmo_hf.pretraining import chunked_softmax
from elmo_hf.pretraining.sampled_softmax import sampled_softmax_reference

LIBRARY = native_library()
PANEL = 16 if LIBRARY is None else LIBRARY.elmo_panel()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no C compiler at hand")
# Relative to the largest value of a result or a gradient.
RELATIVE_ERROR = 1e-5


def problem(words: int, columns: int, sampled: bool, width: int = 2 * PANEL) -> tuple[list[Tensor], Tensor, Tensor]:
    """Hidden, weight, bias and, of a sampled softmax, true logits; targets (or hits); shares, some of them zero."""
    torch.manual_seed(0)
    tensors = [torch.randn(words, width), torch.randn(columns, width) / 2, torch.randn(columns)]
    tensors += [3 * torch.randn(words)] if sampled else []
    targets = torch.randint(0, columns, (words,))
    if sampled:
        targets = torch.where(torch.arange(words) % 3 == 0, targets, -1)
    shares = torch.rand(words) / words
    shares[1::7] = 0.0
    return [tensor.requires_grad_() for tensor in tensors], targets, shares


def reference(tensors: list[Tensor], targets: Tensor) -> Tensor:
    hidden, weight, bias, *true_logits = tensors
    if true_logits:
        return sampled_softmax_reference(hidden, true_logits[0], weight, bias, targets)
    return functional.cross_entropy(functional.linear(hidden, weight, bias), targets, reduction="none")


def agree(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape and found.isfinite().all()
    assert (found - expected).abs().max() <= RELATIVE_ERROR * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("sampled", [True, False], ids=["sampled", "full"])
@pytest.mark.parametrize(("words", "columns"), [(7, 5), (1, 2 * PANEL), (300, 1000), (513, 3 * PANEL + 1), (70, 2**16)])
def test_losses_and_gradients(words: int, columns: int, sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one block of words and several, whole panels of columns and others."""
    monkeypatch.setattr(torch, "empty", lambda shape, **given: torch.full(shape, float("nan"), **given))
    tensors, targets, shares = problem(words, columns, sampled, PANEL if columns > 1000 else 2 * PANEL)
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = reference(wide, targets)
    gradients = torch.autograd.grad(expected, wide, shares.double())
    given = [*tensors, None][:4]
    found = native_softmax_loss(*given, targets, shares, gradients=True)
    assert found is not None
    agree(found.nll, expected)
    for one, other in zip(found[1:], gradients, strict=False):
        agree(one, other)
    without = native_softmax_loss(*given, targets, shares, gradients=False)
    assert without is not None and torch.equal(without.nll, found.nll) and without.hidden is None


def test_the_only_candidate_is_the_true_word() -> None:
    tensors, _, shares = problem(4, 1, True)
    targets = torch.tensor([0, -1, 0, -1])
    found = native_softmax_loss(*tensors, targets, shares, gradients=True)
    assert found is not None and (found.nll[::2] == 0).all() and (found.hidden[::2] == 0).all()
    agree(found.nll, reference([tensor.detach().double() for tensor in tensors], targets))


def test_columns_without_probability() -> None:
    tensors, targets, shares = problem(40, 100, False)
    with torch.no_grad():
        tensors[2][50:] = float("-inf")
    found = native_softmax_loss(*tensors, None, targets % 50, shares, gradients=True)
    assert found is not None and (found.weight[50:] == 0).all() and (found.bias[50:] == 0).all()
    agree(found.nll, reference([tensor.detach().double() for tensor in tensors], targets % 50))


def test_large_and_small_logits() -> None:
    tensors, targets, shares = problem(40, 100, True)
    with torch.no_grad():
        tensors[0].mul_(1000.0)
    found = native_softmax_loss(*tensors, targets, shares, gradients=True)
    assert found is not None
    agree(found.nll, reference([tensor.detach().double() for tensor in tensors], targets))
    assert all(part.isfinite().all() for part in found)


def test_nan_propagates() -> None:
    tensors, targets, shares = problem(4, 100, True)
    with torch.no_grad():
        tensors[0][1] = float("nan")
    found = native_softmax_loss(*tensors, targets, shares, gradients=False)
    assert found is not None and found.nll.isnan().tolist() == [False, True, False, False]


def test_threads_change_no_bit() -> None:
    tensors, targets, shares = problem(600, 2000, True)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(native_softmax_loss(*tensors, targets, shares, gradients=True))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


def test_targets_out_of_range() -> None:
    tensors, targets, shares = problem(4, 100, False)
    for wrong in (-1, 100):
        with pytest.raises(IndexError, match=str(wrong)):
            native_softmax_loss(*tensors, None, torch.full_like(targets, wrong), shares, gradients=False)


def test_sizes_that_do_not_fit_are_refused() -> None:
    (hidden, weight, bias, true_logits), targets, shares = problem(4, 100, True)
    given = [hidden, weight, bias, true_logits, targets, shares]
    for index, name, wrong in (
        (1, "weight", weight[:, :-1]),
        (2, "bias", bias[1:]),
        (3, "true_logits", true_logits[1:]),
        (4, "targets", targets[1:]),
        (5, "shares", shares[:3]),
    ):
        with pytest.raises(ValueError, match=rf"^{name} has shape \({len(wrong)},"):
            native_softmax_loss(*(wrong if at == index else tensor for at, tensor in enumerate(given)), gradients=False)


def test_served_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, targets, shares = problem(4, 100, False)
    assert native_softmax_loss(*tensors, None, targets, shares, gradients=False) is not None
    wide = [tensor.double() for tensor in tensors]
    assert native_softmax_loss(*wide, None, targets, shares.double(), gradients=False) is None
    odd, *_ = problem(4, 100, False, width=PANEL + 1)
    assert native_softmax_loss(*odd, None, targets, shares, gradients=False) is None
    monkeypatch.setattr(native_softmax, "LARGEST_WEIGHT", 10)
    assert native_softmax_loss(*tensors, None, targets, shares, gradients=False) is None


def test_used_by_the_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    """And has the same gradients without it."""
    (hidden, weight, bias, true_logits), hits, shares = problem(50, 100, True)
    tensors = [hidden, weight, bias, true_logits]

    def run() -> list[Tensor]:
        loss, nll = chunked_softmax.chunked_sampled_loss(hidden, true_logits, weight, bias, hits, shares)
        return [loss, nll, *torch.autograd.grad(2 * loss, tensors)]

    calls = []

    def spy(*arguments: Tensor, **given: bool) -> native_softmax.SoftmaxGradients | None:
        calls.append(native_softmax_loss(*arguments, **given))
        return calls[-1]

    monkeypatch.setattr(chunked_softmax, "native_softmax_loss", spy)
    found = run()
    assert len(calls) == 1 and calls[0] is not None
    monkeypatch.setattr(chunked_softmax, "native_softmax_loss", lambda *_, **__: None)
    for one, other in zip(found, run(), strict=True):
        agree(one, other)
