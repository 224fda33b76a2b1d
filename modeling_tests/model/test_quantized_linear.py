"""The int8 linear layer, compared with explicit integer arithmetic; kernels, with the plain matmul."""

import copy
import pickle

import pytest
import torch
from torch import nn

from elmo_hf.inference.quantization import integer_weights, quantized
from elmo_hf.kernels.cpu import int8
from elmo_hf.kernels.cpu.int8 import (
    FBGEMM,
    ONEDNN,
    REDUCED_LEVELS,
    Int8Linear,
    IntegerKernel,
    integer_kernel,
    is_exact,
    signed_levels,
)
from elmo_hf.model.operators import fast_int8_linear
from elmo_hf.model.quantized_linear import ElmoQuantizedLinear, integer_inputs, quantized_linear

ROWS = {
    "signed": lambda rows, width: torch.randn(rows, width),
    "unsigned": lambda rows, width: torch.rand(rows, width),
    "both": lambda rows, width: torch.cat([torch.rand(rows, width), torch.randn(rows, width)])[
        torch.randperm(rows * 2)
    ],
    "zero": lambda rows, width: torch.zeros(rows, width),
    "large": lambda rows, width: torch.randn(rows, width) * 1e20,
    "small": lambda rows, width: torch.randn(rows, width) * 1e-25,
    "halves": lambda rows, width: torch.randint(-2, 3, (rows, width)) / 2,
}


def plain(layer: ElmoQuantizedLinear, inputs: torch.Tensor, levels: int | None = None) -> torch.Tensor:
    levels = signed_levels() if levels is None else levels
    return quantized_linear(inputs, layer.quantized_weight, layer.weight_scale, layer.bias, levels)


def layer_of(inputs: int, outputs: int, bias: bool = True) -> ElmoQuantizedLinear:
    return quantized(nn.Linear(inputs, outputs, bias=bias))


def exact_kernel(bits: int | None = None) -> IntegerKernel:
    """Exact integer sums; with `bits`, sums of two products saturate at that many bits, as in AVX2."""

    def product(rows, zero_point, packed):
        weight, scale = packed
        units = (rows + zero_point).round().to(torch.uint8).double()  # [n, in]
        products = units[:, None, :] * weight.double()  # [n, out, in]
        if bits is not None:
            products = nn.functional.pad(products, (0, products.shape[-1] % 2))
            products = products.unflatten(-1, (-1, 2)).sum(-1).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return ((products.sum(-1) - zero_point * weight.double().sum(-1)) * scale.double()).float()

    return IntegerKernel(lambda weight, scale: (weight, scale), product)


def test_weights_are_nearest_multiples_of_a_scale_per_output():
    weight = torch.randn(5, 40) * torch.tensor([1, 10, 1e-3, 0, 1e5])[:, None]
    integers, scale = integer_weights(weight)
    assert integers.dtype == torch.int8
    torch.testing.assert_close(scale[[0, 1, 2, 4]], weight.abs().amax(1)[[0, 1, 2, 4]] / 127)
    assert integers.abs().amax(1).tolist() == [127, 127, 127, 0, 127]
    assert bool(((integers * scale[:, None] - weight).abs() <= scale[:, None] * 0.5001).all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    weight = torch.randn(3, 4)
    weight[1, 2] = value
    with pytest.raises(ValueError, match="weight .*finite"):
        integer_weights(weight)


@torch.no_grad()
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("levels", [127, REDUCED_LEVELS])
def test_rows_that_are_not_finite(value, levels):
    """Only a row with such a value becomes NaN, in the definition and in every kernel."""
    layer, kernel = layer_of(8, 5), exact_kernel()
    packed = kernel.pack(layer.quantized_weight, layer.weight_scale)
    for rows, number in ((1, 0), (4, 2)):
        inputs = torch.randn(rows, 8)
        inputs[0].abs_()
        inputs[number, 3] = value
        expected = plain(layer, inputs, levels)
        for found in (expected, layer(inputs), Int8Linear(kernel, levels, packed, layer.bias, 5)(inputs)):
            assert found[number].isnan().all() and found.isnan().sum() == 5


@pytest.mark.parametrize("levels", [127, REDUCED_LEVELS])
def test_the_plain_matmul_is_integer_arithmetic(levels):
    layer = layer_of(9, 4)
    inputs = torch.randn(3, 9)
    inputs[1] = inputs[1].abs()
    found = plain(layer, inputs, levels)
    for number, row in enumerate(inputs.tolist()):
        top = 127 if min(row) >= 0 else levels
        step = max(map(abs, row)) / top
        units = [round(value / step) for value in row]
        assert max(map(abs, units)) == top
        for output, weights in enumerate(layer.quantized_weight.tolist()):
            total = sum(unit * weight for unit, weight in zip(units, weights, strict=True))
            expected = total * step * layer.weight_scale[output].item() + layer.bias[output].item()
            assert found[number, output].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("bias", [True, False])
def test_fast_and_plain_matmuls_agree(kind, bias):
    for inputs, outputs, rows in ((1, 1, 1), (7, 5, 3), (512, 300, 1), (512, 300, 9), (1030, 64, 1), (1030, 64, 33)):
        layer = layer_of(inputs, outputs, bias)
        values = ROWS[kind](rows, inputs)
        with torch.no_grad():
            found, expected = layer(values), plain(layer, values)
        # Integer sums are exact; only the last bits of their scaling differ.
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("levels", [127, REDUCED_LEVELS])
@pytest.mark.parametrize("kind", ROWS)
def test_any_cpu_computes_its_plain_matmul(kind, levels, monkeypatch):
    """Emulate CPUs with and without saturating int8 instructions."""
    kernel = exact_kernel(None if levels == 127 else 16)
    assert is_exact(kernel, levels)
    monkeypatch.setattr(int8, "integer_kernel", lambda: (kernel, levels))
    layer = layer_of(65, 12)
    for rows in (1, 6):
        values = ROWS[kind](rows, 65)
        found, expected = layer(values), plain(layer, values, levels)
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_overflowing_kernel_is_detected():
    assert is_exact(exact_kernel(), 127)
    assert not is_exact(exact_kernel(16), 127)
    assert is_exact(exact_kernel(16), REDUCED_LEVELS)
    assert not is_exact(exact_kernel(15), REDUCED_LEVELS)

    def missing(*_):
        raise AttributeError("no such operator")

    assert not is_exact(IntegerKernel(missing, missing), 127)


def test_the_kernel_chosen_is_exact():
    kernel, levels = integer_kernel()
    assert levels in (127, REDUCED_LEVELS)
    if kernel is None:
        pytest.skip("this build of PyTorch has no integer kernel")
    assert kernel in (ONEDNN, FBGEMM) and is_exact(kernel, levels)
    # Fewer levels are used only where neither kernel is exact with 127.
    if levels != 127:
        assert not is_exact(ONEDNN, 127) and not is_exact(FBGEMM, 127)


def test_no_kernel_falls_back_to_the_plain_matmul(monkeypatch):
    monkeypatch.setattr(int8, "integer_kernel", lambda: (None, 127))
    layer, values = layer_of(20, 6), torch.randn(3, 20)
    assert torch.equal(layer(values), plain(layer, values, 127))


def test_row_does_not_depend_on_its_neighbors():
    layer = layer_of(96, 40)
    values = torch.cat([torch.randn(4, 96), torch.rand(3, 96), torch.randn(1, 96) * 50])
    together = layer(values)
    assert torch.equal(layer(values[:4]), together[:4])
    assert torch.equal(layer(values[4:7]), together[4:7])
    for number, row in enumerate(values):
        assert torch.equal(layer(row[None])[0], together[number])
        assert torch.equal(layer(row), together[number])


def test_nan_stays_in_its_row():
    layer, values = layer_of(30, 6), torch.randn(3, 30)
    expected = layer(values)
    values[1, 4] = float("nan")
    found = layer(values)
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
    assert bool(found[1].isnan().all()) and bool(layer(values[1:2]).isnan().all())


@pytest.mark.parametrize(("width", "outputs"), [(512, 256), (2048, 128)])
def test_the_error_of_rounding(width, outputs):
    linear = nn.Linear(width, outputs)
    inputs = torch.randn(64, width).tanh()
    expected = linear(inputs).detach()
    found = quantized(linear)(inputs)
    assert (found - expected).abs().max() <= 0.03 * expected.abs().max()
    assert nn.functional.cosine_similarity(found, expected).min() > 0.9997
    # Rounding of the weights alone; the 7 bits of older CPUs cost at most twice as much.
    units, step = integer_inputs(inputs, REDUCED_LEVELS)
    assert bool(((units * step - inputs).abs() <= 0.5001 * step).all())


def test_shapes_and_dtypes():
    layer = layer_of(8, 5)
    values = torch.randn(2, 3, 8)
    assert torch.equal(layer(values), layer(values.view(6, 8)).view(2, 3, 5))
    assert layer(values[:0]).shape == (0, 3, 5)
    half = layer(values.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, layer(values.bfloat16().float()).bfloat16())
    assert layer(values.double()).dtype == torch.float64
    expected = layer(values)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(values), expected)
        torch.testing.assert_close(layer._plain(values), expected, rtol=1e-6, atol=1e-6)


def test_matmul_with_addend():
    layer, values, addend = layer_of(8, 5, bias=False), torch.randn(3, 8), torch.randn(3, 5)
    kept = addend.clone()
    torch.testing.assert_close(
        fast_int8_linear(layer).plus(values, addend), layer(values) + addend, rtol=1e-6, atol=1e-6
    )
    assert torch.equal(addend, kept)


def test_changed_weights_are_packed_again():
    layer, other, values = layer_of(8, 5), layer_of(8, 5), torch.randn(3, 8)
    before = layer(values)
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(values), other(values)) and not torch.equal(layer(values), before)
    layer.weight_scale.mul_(2)
    torch.testing.assert_close(layer(values), plain(layer, values), rtol=1e-6, atol=1e-6)
    layer.quantized_weight = torch.zeros_like(layer.quantized_weight)
    assert torch.equal(layer(values), layer.bias.expand(3, 5))


def test_copies():
    layer, values = layer_of(8, 5), torch.randn(3, 8)
    expected = layer(values)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer).to("cpu")):
        assert torch.equal(copied(values), expected)
    assert set(layer.state_dict()) == {"quantized_weight", "weight_scale", "bias"}
    assert not list(layer.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scales_stay_float32(dtype):
    layer, values = layer_of(8, 5), torch.randn(3, 8)
    expected = layer(values)
    layer.to(dtype)
    assert {name: value.dtype for name, value in layer.state_dict().items()} == {
        "quantized_weight": torch.int8,
        "weight_scale": torch.float32,
        "bias": torch.float32,
    }
    assert torch.equal(layer(values), expected)


def test_gradients_are_refused():
    layer, values = layer_of(8, 5), torch.randn(3, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"8-bit.*freeze_bilm\(\)"):
        layer(values)
    with torch.no_grad():
        layer(values)


def test_tracers_see_the_plain_matmul():
    layer, values = layer_of(8, 5), torch.randn(3, 8)
    expected = plain(layer, values)
    program = torch.export.export(layer, (values,))
    torch.testing.assert_close(program.module()(values), expected, rtol=1e-6, atol=1e-6)
    assert not any("quantized." in str(node.target) or "onednn" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(torch.compile(layer, backend="eager", fullgraph=True)(values), expected)


def test_meta_device():
    assert layer_of(8, 5).to("meta")(torch.empty(3, 8, device="meta")).shape == (3, 5)


@pytest.mark.skipif(integer_kernel()[0] is None, reason="this build of PyTorch has no integer kernel")
class TestKernel:
    def test_a_changed_scale_is_seen(self):
        layer, values = layer_of(8, 5, bias=False), torch.randn(3, 8)
        before = layer(values)
        layer.weight_scale.data.mul_(3)
        torch.testing.assert_close(layer(values), 3 * before, rtol=1e-6, atol=1e-6)

    def test_weights_made_in_inference_mode_keep_their_kernel(self):
        with torch.inference_mode():
            layer = layer_of(8, 5)
            assert fast_int8_linear(layer) is not None

    def test_a_subclass_is_called(self):
        class Doubled(ElmoQuantizedLinear):
            def forward(self, inputs):
                return 2 * super().forward(inputs)

        assert fast_int8_linear(Doubled(8, 5)) is None
