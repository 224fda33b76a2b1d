"""The hand-written backward pass, compared with autograd over the reference, and its selection."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from elmo_hf import ElmoModel
from elmo_hf.kernels import training
from elmo_hf.kernels.training import LstmWeights, training_lstm
from elmo_hf.model import operators
from elmo_hf.model.operators import projected_lstm, reference_lstm
from modeling_tests.tiny import WORD_INPUT, batch_of, tiny_config

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


@pytest.mark.slow
@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("clips", [(None, None), (0.4, 0.3), (3.0, None), (None, 0.3), (0.0, 3.0)])
@pytest.mark.parametrize("sizes", [[6, 6, 6], [6, 4, 4, 1], [3, 3], [1], [2, 1, 1, 1, 1]])
def test_outputs_and_gradients(
    projected: bool, clips: tuple[float | None, float | None], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All gradients, also through the final state, and where rows stop early or have no words."""
    # Unwritten memory is NaN and must not be read.
    monkeypatch.setattr(torch, "empty_like", lambda tensor, **given: torch.full_like(tensor, float("nan"), **given))
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
def test_gradients_of_a_single_result(chosen: int) -> None:
    tensors = problem(8, True)
    settings = {"cell_clip": 3.0, "projection_clip": 3.0, "forget_bias": 0.0}
    results = run_both(tensors, [4, 4], **settings)
    gradients = [torch.autograd.grad(result[chosen].sum(), tensors, allow_unused=True) for result in results]
    for one, other in zip(*gradients, strict=True):
        expected = torch.zeros_like(one if one is not None else other) if one is None else one
        torch.testing.assert_close(other, expected, atol=1e-12, rtol=0)


def test_gradient_at_the_very_bound_passes() -> None:
    """As in `clamp`: a cell value exactly at the clip passes its gradient."""
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


def check_relative_error(found: Tensor, expected: Tensor, bound: float) -> None:
    """Check the error relative to the largest value, and the angle between both tensors."""
    assert found.isfinite().all()
    assert (found - expected).abs().max() <= bound * expected.abs().max()
    assert nn.functional.cosine_similarity(found.double().flatten(), expected.double().flatten(), dim=0) > 0.9999


class TestBfloat16Matmuls:
    """Against float32; 8 bits of a factor are a relative error of at most 4e-3.

    Clips are wide: the gradient of a value beside its clip is there or not there, whatever the precision.
    """

    settings = {"cell_clip": 3.0, "projection_clip": 3.0, "forget_bias": 1.0}
    sizes = (16, 16, 12, 12, 9, 4, 1)

    @pytest.fixture
    def tensors(self) -> list[Tensor]:
        """A layer of width 24 and cell 32 over 16 rows, weights as in training."""
        width, size = 24, 32
        shapes = [(sum(self.sizes), width), (18, width), (18, size), (4 * size, width), (4 * size,), (4 * size, width)]
        tensors = [torch.randn(shape) * (1.0 if index < 3 else 0.15) for index, shape in enumerate(shapes)]
        return [tensor.requires_grad_() for tensor in [*tensors, torch.randn(width, size) * 0.3]]

    def run(
        self, tensors: list[Tensor], upstream: list[Tensor] | None, matmuls: torch.dtype, outputs: torch.dtype
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], list[Tensor]]:
        inputs, hidden, cell, *weights = tensors
        given = LstmWeights(*weights, matmuls, outputs)
        results = training_lstm(inputs, self.sizes, hidden, cell, given, **self.settings)
        upstream = [torch.randn_like(part) for part in results] if upstream is None else upstream
        pairs = [part.to(result.dtype) for part, result in zip(upstream, results, strict=True)]
        return results, torch.autograd.grad(results, tensors, pairs), upstream

    def test_wide_weights(self, tensors: list[Tensor]) -> None:
        """As under autocast: everything but the operands of matmuls is float32."""
        expected, expected_gradients, upstream = self.run(tensors, None, torch.float32, torch.float32)
        found, gradients, _ = self.run(tensors, upstream, torch.bfloat16, torch.float32)
        assert {part.dtype for part in (*found, *gradients)} == {torch.float32}
        for one, other in zip(found, expected, strict=True):
            check_relative_error(one, other, 1e-2)
        for one, other in zip(gradients, expected_gradients, strict=True):
            check_relative_error(one, other, 1e-2)

    @pytest.mark.parametrize("matmul_dtype", [torch.bfloat16, torch.float32])
    def test_narrow_weights(self, tensors: list[Tensor], matmul_dtype: torch.dtype) -> None:
        """A model with bfloat16 weights and a float32 cell; without bfloat16 matmuls on the CPU, in float32."""
        narrow = [tensor.detach().to(torch.float32 if index == 2 else torch.bfloat16) for index, tensor in
                  enumerate(tensors)]  # fmt: skip
        wide = [tensor.float().requires_grad_() for tensor in narrow]
        narrow = [tensor.requires_grad_() for tensor in narrow]
        expected, expected_gradients, upstream = self.run(wide, None, torch.float32, torch.float32)
        found, gradients, _ = self.run(narrow, upstream, matmul_dtype, torch.bfloat16)
        assert [part.dtype for part in found] == [torch.bfloat16, torch.bfloat16, torch.float32]
        assert [part.dtype for part in gradients] == [tensor.dtype for tensor in narrow]
        for one, other in zip((*found, *gradients), (*expected, *expected_gradients), strict=True):
            check_relative_error(one.float(), other, 2e-2 if matmul_dtype == torch.bfloat16 else 1e-2)

    def test_weights_are_converted_once(self, tensors: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
        """Weights are cast once per call, not per step, and not again in the backward pass."""
        converted = []

        class Watching(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if func is torch.ops.aten._to_copy.default and kwargs.get("dtype") == torch.bfloat16:
                    converted.append(args[0].shape)
                return func(*args, **(kwargs or {}))

        with Watching():
            self.run(tensors, None, torch.bfloat16, torch.float32)
        weights = [tensor.shape for tensor in (tensors[3], tensors[6])]
        assert [converted.count(shape) for shape in weights] == [2, 1]  # input and hidden weight are shaped alike

    @pytest.mark.parametrize("can_multiply", [True, False])
    def test_model_under_autocast(self, can_multiply: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """bf16 training by the Trainer and `elmo-hf pretrain` does not use the reference loop."""
        monkeypatch.setattr(training, "multiplies_bfloat16", lambda: can_multiply)
        model = ElmoModel(tiny_config(**WORD_INPUT, cell_clip=3.0, projection_clip=3.0)).train()
        with torch.no_grad():
            for parameter in [*model.encoder.parameters(), *model.embeddings.parameters()]:
                parameter.normal_(std=0.4)
        batch = batch_of(["a b c d", "e f", "g"])

        def gradients(autocasts: bool) -> list[Tensor]:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocasts):
                loss = model(**batch).last_hidden_state.float().square().sum()
            return list(torch.autograd.grad(loss, [model.encoder.get_parameter(name) for name in names]))

        names = [name for name, _ in model.encoder.named_parameters()]
        expected = gradients(autocasts=False)
        monkeypatch.setattr(operators, "reference_lstm", None)
        found = gradients(autocasts=True)
        for one, other in zip(found, expected, strict=True):
            check_relative_error(one, other, 0.03 if can_multiply else 2e-6)


class Chosen(Exception):
    """Raised instead of running the kernel."""


def trainable_weights(inputs: Tensor, cell: Tensor, *layers: nn.Module) -> LstmWeights | None:
    """Weights that the training kernel accepts from `projected_lstm`; `None` if it declines."""
    found: list[LstmWeights] = []

    def record(*args: Any, **settings: Any) -> None:
        found.append(args[4])
        raise Chosen

    hidden = torch.zeros(2, 3, dtype=inputs.dtype)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Chosen):
        patch.setattr(training, "training_lstm", record)
        patch.setattr(training, "native_lstm", lambda *args, **settings: None)
        patch.setattr(operators, "reference_lstm", lambda *args, **settings: None)
        projected_lstm(
            inputs,
            [2, 2][: len(inputs) // 2],
            hidden,
            cell,
            *layers,
            cell_clip=3.0,
            projection_clip=2.0,
            forget_bias=1.0,
        )
    return found[0] if found else None


class TestChoice:
    """`projected_lstm` chooses it for plain float32 layers that train, and the reference otherwise."""

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
        monkeypatch.setattr(training, "training_lstm", lambda *args, **settings: calls.append(settings))
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
        with torch.autocast("cpu", dtype=torch.float16):
            assert not self.serves(layers)
        assert not self.serves(layers, torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not self.serves(layers, torch.float64)
            assert not self.serves([layer.double() for layer in layers])
        assert not self.serves(layers, torch.float32)
        assert not self.serves([layer.half() for layer in layers], torch.float16)

    @pytest.mark.parametrize("can_multiply", [True, False])
    def test_bfloat16(self, layers: list[nn.Module], can_multiply: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Matmuls run in bfloat16 where that is fast; autocast returns float32."""
        monkeypatch.setattr(training, "multiplies_bfloat16", lambda: can_multiply)
        matmul_dtype = torch.bfloat16 if can_multiply else torch.float32
        cell = torch.zeros(2, 5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for dtype in (torch.float32, torch.bfloat16):
                weights = trainable_weights(torch.zeros(4, 3, dtype=dtype), cell, *layers)
                assert weights is not None and weights[4:] == (matmul_dtype, torch.float32)
        layers = [layer.bfloat16() for layer in layers]
        weights = trainable_weights(torch.zeros(4, 3, dtype=torch.bfloat16), cell, *layers)
        assert weights is not None and weights[4:] == (matmul_dtype, torch.bfloat16)

    def test_zero_words(self, layers: list[nn.Module]) -> None:
        assert not self.serves(layers, words=0)

    def test_hooks_and_parametrizations_are_not_served(self, layers: list[nn.Module]) -> None:
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
