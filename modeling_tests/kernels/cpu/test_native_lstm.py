"""The compiled recurrence: every kind of weight, every number of rows, one thread or several."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elmo_hf.inference.quantization import quantized
from elmo_hf.kernels.cpu import builder, native_lstm
from elmo_hf.kernels.cpu.inference import inference_lstm, native_projected_lstm
from elmo_hf.kernels.cpu.int8 import LEVELS, REDUCED_LEVELS
from elmo_hf.kernels.cpu.native_lstm import NativeRecurrence, native_works
from elmo_hf.kernels.prepared_weights import release
from elmo_hf.model.operators import linear_map, reference_lstm
from modeling_tests.forking import run_python

pytestmark = pytest.mark.skipif(not native_works(torch.float32), reason="no C compiler at hand, or ELMO_HF_NATIVE=0")

SETTINGS = {"cell_clip": 1.5, "projection_clip": 1.0, "forget_bias": 1.0}
# Widths beyond one stretch of sums, and uneven numbers of panels.
SHAPES = [(32, 64), (32, 96), (544, 64), (64, 1056), (512, 1024)]
IS_EMULATED = "ELMO_EMULATED_CPU" in os.environ


def layers_of(width: int, size: int, projected: bool = True, dtype: torch.dtype = torch.float32) -> list[Any]:
    shapes = [(width, 4 * size, True), (width, 4 * size, False), (size, width, False)][: 3 if projected else 2]
    layers: list[Any] = [nn.Linear(i, o, bias=bias) for i, o, bias in shapes]
    for layer in layers:
        nn.init.normal_(layer.weight, std=1.2 / layer.in_features**0.5)
    layers = [layer.to(dtype) for layer in layers]
    return [*layers, None][:3]


def texts(sizes: list[int], width: int, size: int, start: float) -> tuple[Tensor, list[int], Tensor, Tensor]:
    rows = sizes[0] + 1
    return torch.randn(sum(sizes), width), sizes, start * torch.randn(rows, width), start * torch.randn(rows, size)


def maps_of(layers: Any) -> list[Any]:
    return [None if layer is None else linear_map(layer) for layer in layers]


def native_serves(*layers: Any) -> bool:
    """True if the compiled recurrence accepts these layers."""
    maps = maps_of(layers)
    if any(found is None for found, layer in zip(maps, layers, strict=True) if layer is not None):
        return False
    width = layers[1].in_features
    new: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    states = torch.zeros(1, width, **new), torch.zeros(1, layers[1].out_features // 4, **new)
    arguments = torch.zeros(1, layers[0].in_features, **new), [1], *states
    return not isinstance(native_projected_lstm(*arguments, *maps, **SETTINGS), str)


def native(inputs: Tensor, sizes: list[int], hidden: Tensor, cell: Tensor, layers: list[Any], **settings: Any) -> Any:
    assert native_serves(*layers)
    return inference_lstm(inputs, sizes, hidden, cell, NativeRecurrence(*maps_of(layers), **{**SETTINGS, **settings}))


def rounds_rows(dtype: torch.dtype) -> bool:
    """True if the library rounds rows to bfloat16 before it multiplies them by weights of a dtype."""
    library = builder.native_library()
    return dtype == torch.bfloat16 and library is not None and bool(library.elmo_multiplies_bfloat16())


def in_float64(layer: Any) -> Any:
    if layer is None:
        return None
    bias = None if layer.bias is None else layer.bias.double()
    rounds = rounds_rows(layer.weight.dtype)
    return lambda x: nn.functional.linear(x.bfloat16().double() if rounds else x, layer.weight.double(), bias)


def errors(found: Any, expected: Any) -> list[float]:
    return [
        float((one.double() - other.double()).abs().max() / other.double().abs().max())
        for one, other in zip(found, expected, strict=True)
    ]


@pytest.mark.samples(8)
@torch.no_grad()
@pytest.mark.parametrize("threads", [1, 2] if IS_EMULATED else [1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES[:3] if IS_EMULATED else SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_every_number_of_rows(shape: tuple[int, int], dtype: torch.dtype, threads: int) -> None:
    """One block of rows, several, uneven ones, more than a chunk; weights in their dtype, the rest in float32."""
    if not native_works(dtype):
        pytest.skip("oneDNN multiplies bfloat16 on this CPU, and the compiled library does not")
    layers = layers_of(*shape, dtype=dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in (1, 2, 5, 6, 7, 8, 13, 25, 97, 200):
            for sizes in ([rows], [rows, rows, max(1, rows // 2)]):
                arguments = texts(sizes, *shape, start=1.0)
                found = native(*arguments, layers)
                expected = reference_lstm(
                    *(value.double() if isinstance(value, Tensor) else value for value in arguments),
                    *map(in_float64, layers),
                    **SETTINGS,
                )
                largest = errors(found, expected)
                # A value between two bfloat16 may be rounded to either; the first cell does not depend on it.
                assert max(largest) < (4e-3 if rounds_rows(dtype) else 2e-6)
                assert largest[2] < 2e-6 or len(sizes) > 1
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("start", [0.0, 0.7])
@pytest.mark.parametrize("clips", [(None, None), (0.2, 0.1), (0.0, 0.0)])
def test_clips_and_states(projected: bool, start: float, clips: tuple[float | None, float | None]) -> None:
    width, size = (32, 96) if projected else (64, 64)
    layers = layers_of(width, size, projected)
    settings = {"cell_clip": clips[0], "projection_clip": clips[1], "forget_bias": 0.5}
    arguments = texts([7, 4, 4, 1], width, size, start)
    found = native(*arguments, layers, **settings)
    for one, other in zip(found, reference_lstm(*arguments, *layers, **settings), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-6)


@torch.no_grad()
@pytest.mark.skipif(not native_works(torch.int8), reason="no compiled int8 kernel for this CPU")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_integers_are_those_of_the_definition(shape: tuple[int, int]) -> None:
    """Integer sums are exact: one step differs only by the rounding after them."""
    layers = [quantized(layer) for layer in layers_of(*shape)]
    for rows in (1, 2, 6, 7, 13, 97, 200):
        arguments = texts([rows], *shape, start=1.0)
        # A row without negative values has another zero point, which rounds a value near a half in another direction.
        arguments[0][0] = arguments[0][0].abs()
        arguments[0][0, :8] = torch.nextafter(torch.tensor(1.5), torch.tensor(0.0))
        arguments[0][0, 8] = LEVELS
        arguments[0][-1] = 0.0
        found = native(*arguments, layers)
        expected = reference_lstm(*arguments, *(layer._plain for layer in layers), **SETTINGS)
        # A value between two integers may fall to either: one unit in one of many inputs.
        assert errors(found, expected)[2] < 1e-6
        assert max(errors(found, expected)) < 2e-2
        assert sorted((found[0] - expected[0]).abs().flatten().tolist())[-len(found[0]) - 1] < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_propagate(dtype: torch.dtype, value: float) -> None:
    if not native_works(dtype):
        pytest.skip("the compiled kernel does not serve this dtype on this CPU")
    layers = layers_of(32, 64, dtype=torch.float32 if dtype == torch.int8 else dtype)
    if dtype == torch.int8:
        layers = [quantized(layer) for layer in layers]
    inputs, sizes, hidden, cell = texts([2, 2], 32, 64, 0.0)
    inputs[0] = value
    outputs, _, _ = native(inputs, sizes, hidden, cell, layers)
    assert outputs[1].isfinite().all() and outputs[3].isfinite().all()
    if value != value or dtype == torch.int8:  # as in the definition: no integer represents infinity
        assert outputs[0].isnan().all() and outputs[2].isnan().all()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=["float32", "bfloat16", "int8"])
def test_word_does_not_depend_on_its_neighbors(dtype: torch.dtype) -> None:
    """Results do not depend on the number of words, bit for bit, for weights of every dtype."""
    if not native_works(dtype):
        pytest.skip("the compiled kernel does not serve this dtype on this CPU")
    layers = layers_of(64, 96, dtype=torch.float32 if dtype == torch.int8 else dtype)
    if dtype == torch.int8:
        layers = [quantized(layer) for layer in layers]
    inputs, _, hidden, cell = texts([40], 64, 96, 1.0)
    alone = [
        native(inputs[row : row + 1], [1], hidden[row : row + 1], cell[row : row + 1], layers) for row in range(40)
    ]
    together = native(inputs, [40], hidden, cell, layers)
    for row, one in enumerate(alone):
        assert torch.equal(one[0][0], together[0][row]) and torch.equal(one[2][0], together[2][row])


@torch.no_grad()
def test_threads_change_no_bit() -> None:
    layers, arguments = layers_of(64, 512), texts([19, 18, 3], 64, 512, 1.0)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(native(*arguments, layers))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@torch.no_grad()
@pytest.mark.skipif(IS_EMULATED, reason="an emulated process has no OpenMP of PyTorch")
def test_threads_of_its_own() -> None:
    """The library without PyTorch's OpenMP."""
    library = builder.native_library()
    assert library is not None
    layers, arguments = layers_of(64, 512), texts([19, 18, 3], 64, 512, 1.0)
    expected = native(*arguments, layers)
    before = torch.get_num_threads()
    try:
        library.elmo_use_open_mp(None, None)
        torch.set_num_threads(3)
        found = native(*arguments, layers)
    finally:
        torch.set_num_threads(before)
        builder._share_threads(library)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@torch.no_grad()
def test_served_layers() -> None:
    assert native_serves(*layers_of(32, 64))
    assert native_serves(*layers_of(64, 64, projected=False))
    assert not native_serves(*layers_of(20, 36))  # no whole panels
    assert not native_serves(*layers_of(32, 64, dtype=torch.float16))
    assert not native_serves(*layers_of(32, 64, dtype=torch.float64))
    first, second, third = layers_of(32, 64)
    assert not native_serves(first, second, nn.Linear(64, 32))
    assert not native_serves(nn.Linear(32, 256, bias=False), second, third)
    assert not native_serves(first, second, third.bfloat16())
    first, second, third = layers_of(32, 64)
    handle = second.register_forward_hook(lambda *_: None)
    assert not native_serves(first, second, third)
    handle.remove()
    assert native_serves(first, second, third)
    with torch.autocast("cpu", dtype=torch.float16):
        assert not native_serves(first, second, third)


@torch.no_grad()
def test_layers_that_do_not_fit_together() -> None:
    first, second, third = layers_of(32, 64)
    assert not native_serves(layers_of(32, 32)[0], second, third)
    assert not native_serves(layers_of(64, 64)[0], second, third)
    assert not native_serves(first, second, layers_of(32, 32)[2])
    assert not native_serves(first, second, None)


@torch.no_grad()
def test_sizes_that_do_not_fit_are_refused() -> None:
    layers = layers_of(32, 64)
    recurrence = NativeRecurrence(*maps_of(layers), 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"\(3, 16\).*\(words, 32\)"):
        recurrence.input_gates(torch.zeros(3, 16))
    gates = recurrence.input_gates(torch.randn(3, 32))
    cell, index = torch.zeros(2, 64), torch.tensor([0, 1, 2])

    def refused(error: type[Exception], match: str, **changed: Any) -> None:
        given = {"start": 0, "index": None, "batch_sizes": [2, 1], "hidden": None, "cell": cell, **changed}
        with pytest.raises(error, match=match):
            recurrence.run(gates, **given)

    refused(ValueError, "4 words.* 3", batch_sizes=[2, 2])
    refused(ValueError, "4 words.* 3", start=1)
    refused(ValueError, r"batch_sizes are \[1, 2\]", batch_sizes=[1, 2])
    refused(ValueError, r"batch_sizes are \[2, 0\]", batch_sizes=[2, 0])
    refused(ValueError, r"hidden has shape \(1, 32\)", hidden=torch.zeros(1, 32))
    refused(ValueError, r"hidden has shape \(2, 16\)", hidden=torch.zeros(2, 16))
    refused(ValueError, r"cell has shape \(1, 64\)", cell=torch.zeros(1, 64))
    refused(ValueError, r"cell has shape \(2, 32\)", cell=torch.zeros(2, 32))
    refused(ValueError, "cell .*contiguous", cell=torch.zeros(64, 2).T)
    refused(ValueError, "index has 2 words: .* 3", index=index[:2])
    refused(IndexError, "index holds -1", index=index - 1)
    refused(IndexError, "index holds 3", index=index + 1)
    expected = recurrence.run(gates, 0, index, [2, 1], None, cell.clone())
    assert torch.equal(recurrence.run(gates, 0, index.int(), [2, 1], None, cell.clone()), expected)


@torch.no_grad()
@pytest.mark.skipif(not native_works(torch.int8), reason="no compiled int8 kernel for this CPU")
def test_scales_of_another_dtype() -> None:
    layers = [quantized(layer) for layer in layers_of(32, 64)]
    arguments = texts([3, 2], 32, 64, 0.0)
    expected = native(*arguments, layers)
    for layer in layers:
        layer.weight_scale = layer.weight_scale.double()
    assert max(errors(native(*arguments, layers), expected)) < 1e-6


@torch.no_grad()
def test_small_values_stay_exact() -> None:
    """The relative error is small: tanh(1e-6) is not rounded to the absolute precision of tanh(1)."""
    layers, (inputs, sizes, hidden, cell) = layers_of(32, 64), texts([4], 32, 64, 0.0)
    for layer in layers[:1]:
        layer.weight.mul_(1e-6)
        layer.bias.zero_()
    found = native(inputs, sizes, hidden, cell, layers, cell_clip=None)
    expected = reference_lstm(
        inputs.double(), sizes, hidden.double(), cell.double(), *map(in_float64, layers), **SETTINGS
    )
    assert max(errors(found, expected)) < 2e-6


@pytest.mark.slow
def test_kernel_runs_in_forked_processes() -> None:
    """OpenMP would wait for threads that a fork does not copy."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    script = """
import os, torch
from modeling_tests.kernels.cpu.test_native_lstm import layers_of, native, texts
torch.set_num_threads(2)
with torch.no_grad():
    layers, arguments = layers_of(32, 64), texts([3, 2], 32, 64, 0.0)
    expected = native(*arguments, layers)[0]
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(native(*arguments, layers)[0], expected) else 3)
    print(os.waitpid(child, 0)[1])
"""
    answer = run_python("-c", script)
    assert (answer.returncode, answer.stdout.strip()) == (0, "0"), answer.stderr


@pytest.mark.parametrize(
    ("dtype", "bits", "levels", "multiplies", "packs", "has_amx", "serves"),
    [
        (torch.float32, 0, LEVELS, 0, True, True, True),
        (torch.float16, 32, LEVELS, 1, True, False, False),
        (torch.int8, 0, REDUCED_LEVELS, 0, True, False, False),
        (torch.int8, 16, REDUCED_LEVELS, 0, True, False, True),
        (torch.int8, 16, LEVELS, 0, True, False, False),
        (torch.int8, 32, REDUCED_LEVELS, 0, True, False, True),
        (torch.int8, 32, LEVELS, 1, True, False, True),
        (torch.int8, 32, LEVELS, 1, True, True, False),
        (torch.bfloat16, 16, LEVELS, 0, False, False, True),
        (torch.bfloat16, 16, LEVELS, 0, True, False, False),
        (torch.bfloat16, 32, LEVELS, 1, True, False, True),
        (torch.bfloat16, 32, LEVELS, 1, True, True, False),
    ],
)
def test_which_weights_are_served(
    dtype: torch.dtype,
    bits: int,
    levels: int,
    multiplies: int,
    packs: bool,
    has_amx: bool,
    serves: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No overflow of int8 sums, and no library where PyTorch's kernels have better instructions."""
    library = SimpleNamespace(elmo_int8_sum_bits=lambda: bits, elmo_multiplies_bfloat16=lambda: multiplies)
    monkeypatch.setattr(native_lstm, "native_library", lambda: library)
    monkeypatch.setattr(native_lstm, "signed_levels", lambda: levels)
    monkeypatch.setattr(native_lstm, "packing_works", lambda _: packs)
    monkeypatch.setattr(native_lstm, "cpu_supports", lambda name: has_amx and name == "amx_tile")
    assert native_works.__wrapped__(dtype) == serves


def test_serves_without_gradients_only() -> None:
    layers = layers_of(32, 64)
    assert not native_serves(*layers)
    with torch.no_grad():
        assert native_serves(*layers)


@torch.no_grad()
@pytest.mark.skipif(not native_works(torch.int8), reason="no compiled int8 kernel for this CPU")
def test_integer_layers_with_hooks_are_not_served() -> None:
    layers = [quantized(layer) for layer in layers_of(32, 64)]
    assert native_serves(*layers)
    handle = layers[0].register_forward_pre_hook(lambda *_: None)
    assert not native_serves(*layers)
    handle.remove()
    assert not native_serves(layers[0], layers[1], layers_of(32, 64)[2])


@torch.no_grad()
def test_changed_weights_are_packed_again() -> None:
    layers, arguments = layers_of(32, 64), texts([3, 2], 32, 64, 1.0)
    native(*arguments, layers)
    for layer in layers:
        layer.weight.mul_(-0.5)
    layers[0].bias.add_(1.0)
    for one, other in zip(native(*arguments, layers), reference_lstm(*arguments, *layers, **SETTINGS), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-6)
    for layer in layers:
        release(layer)


@torch.no_grad()
def test_default_dtype_and_device_do_not_matter() -> None:
    layers, arguments = layers_of(32, 64), texts([3, 2], 32, 64, 1.0)
    expected = native(*arguments, layers)
    for layer in layers:
        release(layer)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = native(*arguments, layers)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@torch.no_grad()
def test_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, arguments = layers_of(32, 64), texts([3, 2], 32, 64, 1.0)
    library = builder.native_library()
    assert library is not None

    class Full:
        elmo_panel = library.elmo_panel
        elmo_int8_sum_bits = library.elmo_int8_sum_bits
        elmo_multiplies_bfloat16 = library.elmo_multiplies_bfloat16

        def elmo_input_matmul(self, *_: Any) -> int:
            return 1

    monkeypatch.setattr(native_lstm, "native_library", Full)
    with pytest.raises(MemoryError, match="biLSTM layer"):
        native(*arguments, layers)
