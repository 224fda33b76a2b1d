"""The hand-written backward pass against autograd over the reference, and when it is chosen."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from elmo_hf import lstm_elmo
from elmo_hf.lstm_elmo import projected_lstm, reference_lstm
from elmo_hf.lstm_training_elmo import LstmWeights, trainable_weights, training_lstm

ROWS, WIDTH = 6, 3


def problem(total: int, projected: bool, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Inputs, hidden, cell, and the weights of input, bias, recurrence and, if `projected`, output."""
    size = 5 if projected else WIDTH
    shapes = [(total, WIDTH), (ROWS, WIDTH), (ROWS, size), (4 * size, WIDTH), (4 * size,), (4 * size, WIDTH)]
    shapes += [(WIDTH, size)] if projected else []
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def run_both(tensors: list[Tensor], sizes: list[int], **settings: Any) -> list[tuple[Tensor, ...]]:
    inputs, hidden, cell, w, bias, u, *p = tensors
    products: list[Callable[[Tensor], Tensor] | None] = [
        lambda x: functional.linear(x, w, bias),
        lambda h: functional.linear(h, u),
        (lambda o: functional.linear(o, p[0])) if p else None,
    ]
    return [
        reference_lstm(inputs, sizes, hidden, cell, *products, **settings),
        training_lstm(inputs, sizes, hidden, cell, LstmWeights(w, bias, u, p[0] if p else None), **settings),
    ]


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("clips", [(None, None), (0.4, 0.3), (3.0, None), (None, 0.3), (0.0, 3.0)])
@pytest.mark.parametrize("sizes", [[6, 6, 6], [6, 4, 4, 1], [3, 3], [1], [2, 1, 1, 1, 1]])
def test_outputs_and_gradients(
    projected: bool, clips: tuple[float | None, float | None], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of everything, also through the final state, and where rows stop early or have no words."""
    # What is never written must not be read.
    monkeypatch.setattr(torch, "empty_like", lambda tensor: torch.full_like(tensor, float("nan")))
    monkeypatch.setattr(Tensor, "new_empty", lambda tensor, *shape: tensor.new_full(shape, float("nan")))
    tensors = problem(sum(sizes), projected)
    settings = {"cell_clip": clips[0], "projection_clip": clips[1], "forget_bias": 1.0}
    expected, found = run_both(tensors, sizes, **settings)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    upstream = [torch.randn_like(part) for part in expected]
    gradients = [torch.autograd.grad(results, tensors, upstream, allow_unused=True) for results in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, atol=1e-11, rtol=0)


@pytest.mark.parametrize("chosen", [0, 2], ids=["outputs", "cell"])
def test_one_result_used_alone(chosen: int) -> None:
    tensors = problem(8, True)
    settings = {"cell_clip": 3.0, "projection_clip": 3.0, "forget_bias": 0.0}
    results = run_both(tensors, [4, 4], **settings)
    gradients = [torch.autograd.grad(result[chosen].sum(), tensors, allow_unused=True) for result in results]
    for one, other in zip(*gradients, strict=True):
        expected = torch.zeros_like(one if one is not None else other) if one is None else one
        torch.testing.assert_close(other, expected, atol=1e-12, rtol=0)


def test_gradient_at_the_very_bound_passes() -> None:
    """As through `clamp`: a cell that is exactly at the clip still learns."""
    inputs, hidden, cell = torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1)
    weights = [torch.zeros(4, 1), torch.tensor([0.0, 1e9, 0.0, 0.0]), torch.zeros(4, 1), torch.ones(1, 1)]
    results = run_both(
        [inputs, hidden, cell.requires_grad_(), *weights], [1], cell_clip=1.0, projection_clip=None, forget_bias=0.0
    )
    gradients = [torch.autograd.grad(result[0].sum(), cell)[0] for result in results]
    assert gradients[0] > 0.2
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-7, rtol=0)


def test_frozen_parts_get_no_gradient() -> None:
    tensors = problem(8, True)
    for index in (1, 2, 3, 4):
        tensors[index].requires_grad_(False)
    _, (outputs, _, _) = run_both(tensors, [4, 4], cell_clip=3.0, projection_clip=3.0, forget_bias=1.0)
    outputs.sum().backward()
    assert [tensor.grad is not None for tensor in tensors] == [True, False, False, False, False, True, True]


class TestChoice:
    """When `projected_lstm` takes it: plain float32 layers that train; the reference otherwise."""

    @pytest.fixture
    def layers(self) -> list[nn.Module]:
        return [nn.Linear(3, 20), nn.Linear(3, 20, bias=False), nn.Linear(5, 3, bias=False)]

    def serves(self, layers: list[nn.Module], dtype: torch.dtype = torch.float32, words: int = 4) -> bool:
        cell = torch.zeros(2, 5, dtype=torch.promote_types(dtype, torch.float32))
        return trainable_weights(torch.zeros(words, 3, dtype=dtype), cell, *layers) is not None

    def test_plain_training(self, layers: list[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.serves(layers)
        assert self.serves([layer.double() for layer in layers], torch.float64)
        calls = []
        monkeypatch.setattr(lstm_elmo, "training_lstm", lambda *args, **settings: calls.append(settings))
        projected_lstm(
            torch.zeros(4, 3, dtype=torch.float64), [2, 2], torch.zeros(2, 3).double(), torch.zeros(2, 5).double(),
            *layers, cell_clip=3.0, projection_clip=2.0, forget_bias=1.0,
        )  # fmt: skip
        assert calls == [{"cell_clip": 3.0, "projection_clip": 2.0, "forget_bias": 1.0}]

    def test_inference(self, layers: list[nn.Module]) -> None:
        with torch.no_grad():
            assert not self.serves(layers)
        for layer in layers:
            layer.requires_grad_(False)
        assert not self.serves(layers)

    def test_other_dtypes(self, layers: list[nn.Module]) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not self.serves(layers)
        assert not self.serves([layer.bfloat16() for layer in layers], torch.bfloat16)
        assert not self.serves(layers, torch.float32)

    def test_nothing_to_read(self, layers: list[nn.Module]) -> None:
        assert not self.serves(layers, words=0)

    def test_anything_attached(self, layers: list[nn.Module]) -> None:
        handle = layers[1].register_forward_pre_hook(lambda module, args: None)
        assert not self.serves(layers)
        handle.remove()
        assert self.serves(layers)
        layers[2].forward = layers[2].forward  # as offloading replaces it
        assert not self.serves(layers)
        del layers[2].forward
        nn.utils.parametrizations.weight_norm(layers[0])
        assert not self.serves(layers)
        layers[0] = nn.Sequential(nn.Linear(3, 20))
        assert trainable_weights(torch.zeros(4, 3), torch.zeros(2, 5), nn.Identity(), *layers[1:]) is None

    def test_function_transforms(self, layers: list[nn.Module]) -> None:
        found = []

        def loss(inputs: Tensor) -> Tensor:
            found.append(trainable_weights(inputs, torch.zeros(2, 5), *layers))
            return inputs.sum()

        torch.func.grad(loss)(torch.zeros(4, 3))
        assert found == [None]
