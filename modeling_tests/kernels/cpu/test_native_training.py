"""The training LSTM in C, compared with autograd over the float64 reference, gradients included."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from elmo_hf.kernels.cpu import native_training
from elmo_hf.kernels.cpu.builder import native_library
from elmo_hf.kernels.cpu.native_training import native_training_lstm
from elmo_hf.kernels.training import LstmWeights, native_lstm
from elmo_hf.model.operators import reference_lstm

LIBRARY = native_library()
PANEL = 16 if LIBRARY is None else LIBRARY.elmo_panel()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no C compiler at hand")
# Relative to the largest value of a result or a gradient.
RELATIVE_ERROR = 1e-5
SETTINGS = {"cell_clip": 3.0, "projection_clip": 3.0, "forget_bias": 1.0}


def problem(
    sizes: list[int], inputs: int = PANEL, width: int = 2 * PANEL, size: int = 3 * PANEL, idle_rows: int = 0
) -> list[Tensor]:
    """Inputs, hidden, cell, and the weights of input, bias, recurrence and, where width and size differ, output."""
    torch.manual_seed(0)
    rows = sizes[0] + idle_rows
    shapes = [(sum(sizes), inputs), (rows, width), (rows, size), (4 * size, inputs), (4 * size,), (4 * size, width)]
    shapes += [(width, size)] if width != size else []
    scales = [1.0, 1.0, 1.0, *(shape[-1] ** -0.5 for shape in shapes[3:])]
    return [(torch.randn(shape) * scale).requires_grad_() for shape, scale in zip(shapes, scales, strict=True)]


def native(tensors: list[Tensor], sizes: list[int], **settings: Any) -> tuple[Tensor, ...]:
    weights = [*tensors[3:], None][:4]
    found = native_training_lstm(tensors[0], sizes, *tensors[1:3], *weights, **{**SETTINGS, **settings})
    assert found is not None
    return found


def reference(tensors: list[Tensor], sizes: list[int], **settings: Any) -> tuple[Tensor, ...]:
    inputs, hidden, cell, weight, bias, recurrent, *projection = tensors
    return reference_lstm(
        inputs,
        sizes,
        hidden,
        cell,
        lambda x: functional.linear(x, weight, bias),
        lambda h: functional.linear(h, recurrent),
        (lambda o: functional.linear(o, projection[0])) if projection else None,
        **{**SETTINGS, **settings},
    )


def agree(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape and found.isfinite().all()
    assert (found - expected).abs().max() <= RELATIVE_ERROR * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("clips", [(None, None), (0.4, 0.3), (3.0, None), (None, 0.3)])
@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ([7, 7, 7], {}),
        ([1], {}),
        ([133, 130, 13, 12, 1, 1], {"idle_rows": 3}),  # more than one chunk, and tiles of all heights
        ([300, 280, 4], {"inputs": 2 * PANEL, "width": PANEL, "size": 2 * PANEL}),  # a step larger than a chunk
        ([5, 4, 1], {"width": 2 * PANEL, "size": 2 * PANEL}),  # no projection
        ([9, 3], {"inputs": 320, "width": 288, "size": 544}),  # sums in several parts
        ([9, 3], {"inputs": PANEL + 1, "width": PANEL - 2, "size": 2 * PANEL + 3}),  # multiples of no panel
        ([5, 4, 1], {"inputs": 100, "width": 50, "size": 50}),
    ],
    ids=["even", "one word", "uneven", "many rows", "no projection", "wide", "odd", "odd, no projection"],
)
def test_outputs_and_gradients(
    sizes: list[int],
    shape: dict[str, int],
    clips: tuple[float | None, float | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All gradients, also through the final state, and where rows stop early or have no words."""
    # Unwritten memory is NaN and must not be read.
    monkeypatch.setattr(native_training, "_empty", lambda *shape: torch.full(shape, float("nan")))
    monkeypatch.setattr(native_training, "in_huge_pages", lambda count, _: torch.full((count,), float("nan")))
    tensors = problem(sizes, **shape)
    settings = {"cell_clip": clips[0], "projection_clip": clips[1]}
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    found, expected = native(tensors, sizes, **settings), reference(wide, sizes, **settings)
    upstream = [torch.randn_like(part) for part in found]
    gradients = torch.autograd.grad(found, tensors, upstream)
    expected_gradients = torch.autograd.grad(expected, wide, [part.double() for part in upstream])
    for one, other in zip((*found, *gradients), (*expected, *expected_gradients), strict=True):
        agree(one, other)


def test_threads_change_no_bit() -> None:
    sizes = [70, 70, 65, 30, 2]
    tensors = problem(sizes, width=3 * PANEL, size=5 * PANEL)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found = native(tensors, sizes)
            results.append([*found, *torch.autograd.grad(sum(part.sum() for part in found), tensors)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


def test_backward_twice() -> None:
    """With `retain_graph`, as for two losses: the second backward pass gives the same gradients."""
    sizes, tensors = [4, 4, 2], problem([4, 4, 2])
    outputs, *_ = native(tensors, sizes)
    first = torch.autograd.grad(outputs.sum(), tensors, retain_graph=True)
    second = torch.autograd.grad(outputs.sum(), tensors)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("chosen", [0, 1, 2], ids=["outputs", "hidden", "cell"])
def test_gradients_of_a_single_result(chosen: int) -> None:
    sizes, tensors = [4, 4], problem([4, 4])
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    gradients = torch.autograd.grad(native(tensors, sizes)[chosen].sum(), tensors)
    expected = torch.autograd.grad(reference(wide, sizes)[chosen].sum(), wide, allow_unused=True)
    for one, other in zip(gradients, expected, strict=True):
        agree(one, torch.zeros_like(one) if other is None else other)


def test_frozen_parts_get_no_gradient() -> None:
    sizes, tensors = [4, 4], problem([4, 4])
    expected = torch.autograd.grad(native(tensors, sizes)[0].sum(), tensors)
    for frozen in ((0, 1, 2), (3, 4, 5), (4, 6), (0, 1, 2, 3, 5, 6)):
        for index, tensor in enumerate(tensors):
            tensor.requires_grad_(index not in frozen).grad = None
        native(tensors, sizes)[0].sum().backward()
        for index, (tensor, gradient) in enumerate(zip(tensors, expected, strict=True)):
            assert (tensor.grad is None) == (index in frozen)
            assert tensor.grad is None or torch.equal(tensor.grad, gradient)


def test_gradient_at_the_very_bound_passes() -> None:
    """As in `clamp`: a cell value exactly at the clip passes its gradient."""
    tensors = [torch.zeros_like(tensor) for tensor in problem([1], width=PANEL, size=2 * PANEL)]
    cell = torch.ones_like(tensors[2]).requires_grad_()
    tensors[2], tensors[6] = cell, torch.ones_like(tensors[6])
    tensors[4][2 * PANEL : 4 * PANEL] = 1e9  # the forget gate is open
    outputs, *_ = native(tensors, [1], cell_clip=1.0, projection_clip=None)
    (gradient,) = torch.autograd.grad(outputs.sum(), cell)
    assert (gradient > 0.2).all()


def test_nan_propagates() -> None:
    tensors = problem([2, 2])
    with torch.no_grad():
        tensors[0][0] = float("nan")
    outputs, *_ = native(tensors, [2, 2])
    assert outputs[0].isnan().all() and outputs[1].isfinite().all()


def test_a_state_of_any_layout() -> None:
    """Non-contiguous memory, as of a transposed or expanded state."""
    sizes, tensors = [3, 3, 1], [tensor.detach() for tensor in problem([3, 3, 1], idle_rows=2)]
    expected = native(tensors, sizes)
    turned = [tensor.T.contiguous().T if tensor.dim() == 2 else tensor for tensor in tensors]
    assert not turned[1].is_contiguous()
    for one, other in zip(native(turned, sizes), expected, strict=True):
        assert one.is_contiguous() and torch.equal(one, other)
    zeros = [tensor[:1].expand_as(tensor) if index in (1, 2) else tensor for index, tensor in enumerate(tensors)]
    plain = [tensor.contiguous() for tensor in zeros]
    for one, other in zip(native(zeros, sizes), native(plain, sizes), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("index", "changed", "message"),
    [
        (0, (7, PANEL), "batch_sizes are of 8 words: .* 7"),
        (1, (3, PANEL), "hidden and cell have 3 and 4 rows"),
        (2, (5, PANEL), "hidden and cell have 4 and 5 rows"),
        *(
            (index, (PANEL,), rf"^{name} has shape \({PANEL},\)")
            for index, name in enumerate(("input_weight", "input_bias", "hidden_weight", "output_weight"), 3)
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(index: int, changed: tuple[int, ...], message: str) -> None:
    """Such sizes would read or write beyond the tensors' memory."""
    tensors = [tensor.detach() for tensor in problem([4, 4])]
    with pytest.raises(ValueError, match=message):
        native([torch.zeros(changed) if at == index else tensor for at, tensor in enumerate(tensors)], [4, 4])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([4, 5], r"batch_sizes are \[4, 5\]"),
        ([4, 3], "batch_sizes are of 7 words: .* 8"),
        ([4, 0], r"batch_sizes are \[4, 0\]"),
        ([8], "hidden and cell have 4 and 4 rows: .* 8"),
    ],
)
def test_batch_sizes_that_do_not_fit_are_refused(sizes: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native([tensor.detach() for tensor in problem([4, 4])], sizes)


class TestChoice:
    """Selection of `training.native_lstm`."""

    def run(self, tensors: list[Tensor], *dtypes: torch.dtype) -> tuple[Tensor, ...] | None:
        inputs, hidden, cell, *weights = tensors
        return native_lstm(inputs, [4, 4], hidden, cell, LstmWeights(*weights, *dtypes), **SETTINGS)

    def test_float32(self) -> None:
        assert self.run(problem([4, 4])) is not None

    def test_other_dtypes(self) -> None:
        assert self.run([tensor.double() for tensor in problem([4, 4])]) is None
        assert self.run(problem([4, 4]), torch.bfloat16) is None

    def test_no_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(native_training, "native_library", lambda: None)
        assert self.run(problem([4, 4])) is None

    def test_bfloat16_weights_with_float32_matmuls(self) -> None:
        """On a CPU without bfloat16 matmuls, everything between inputs and outputs is float32."""
        tensors = problem([4, 4])
        narrow = [tensor.detach() if index == 2 else tensor.detach().bfloat16() for index, tensor in enumerate(tensors)]
        wide = [tensor.float().requires_grad_() for tensor in narrow]
        narrow = [tensor.requires_grad_() for tensor in narrow]
        found, expected = self.run(narrow, torch.float32, torch.bfloat16), self.run(wide)
        assert found is not None and expected is not None
        assert [part.dtype for part in found] == [torch.bfloat16, torch.bfloat16, torch.float32]
        gradients = torch.autograd.grad(found[2].sum(), narrow)
        expected_gradients = torch.autograd.grad(expected[2].sum(), wide)
        for one, other, tensor in zip(gradients, expected_gradients, narrow, strict=True):
            assert torch.equal(one, other.to(tensor.dtype))

    def test_out_of_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Full:
            elmo_panel = LIBRARY.elmo_panel if LIBRARY is not None else None

            def elmo_training_forward(self, *_: Any) -> int:
                return 1

        monkeypatch.setattr(native_training, "native_library", Full)
        with pytest.raises(MemoryError, match="biLSTM layer"):
            self.run(problem([4, 4]))
