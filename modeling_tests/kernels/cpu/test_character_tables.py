"""Table look-ups, compared with the convolutions, gradients included."""

import pytest
import torch
from torch import nn

from elmo_hf.kernels.cpu import character_tables
from elmo_hf.kernels.cpu.builder import native_library
from elmo_hf.model.operators import character_maxima, reference_maxima
from modeling_tests.tiny import character_row

WORDS = ["", "a", "cat", "<S>", "</S>", "abcdefg", "abcdefghijkl", "aaaaaaa", "\u00e9\u00df", "cat"]


def modules(dtype=torch.float64, padding_index=0, widths=((1, 4), (2, 3), (4, 5), (9, 2))):
    torch.manual_seed(0)
    table = nn.Embedding(262, 3, padding_idx=padding_index)
    convolutions = [nn.Conv1d(3, count, width) for width, count in widths]
    nn.init.normal_(table.weight)
    return table.to(dtype), [convolution.to(dtype) for convolution in convolutions]


def rows_of(words):
    return torch.tensor([character_row(word) for word in words])


def is_looked_up(values):
    return "LookedUpMaxima" in type(values.grad_fn).__name__


def gradients(function, rows, table, convolutions):
    parameters = [table.weight, *(p for convolution in convolutions for p in convolution.parameters())]
    values = function(rows, table, convolutions)
    weights = torch.linspace(-1, 1, values.numel(), dtype=values.dtype).view_as(values)
    return values, torch.autograd.grad((values * weights).sum(), parameters)


@pytest.mark.parametrize("chunk", [1, 3, 256])
@pytest.mark.parametrize("rows", [rows_of(WORDS), rows_of(WORDS[:1]), torch.zeros(3, 9, dtype=torch.int64)])
@pytest.mark.parametrize("padding_index", [0, None])
def test_equals_the_reference(rows, chunk, padding_index, monkeypatch):
    monkeypatch.setattr(character_tables, "WORDS_OF_A_CHUNK", chunk)
    parts = modules(padding_index=padding_index)
    fast, fast_gradients = gradients(character_maxima, rows, *parts)
    plain, plain_gradients = gradients(reference_maxima, rows, *parts)
    assert is_looked_up(fast) and not is_looked_up(plain)
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-14)
    for ours, theirs in zip(fast_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


def test_code_point_dictionary_uses_the_reference():
    _, convolutions = modules()
    rows = torch.randint(0, 3000, (5, 12))
    table = nn.Embedding(3000, 3).double()
    values = character_maxima(rows, table, convolutions)
    assert not is_looked_up(values)
    assert torch.equal(values, reference_maxima(rows, table, convolutions))


def test_random_rows_without_a_common_tail():
    rows = torch.randint(0, 262, (300, 50))
    parts = modules(torch.float32, widths=((1, 32), (3, 16), (7, 8)))
    fast, fast_gradients = gradients(character_maxima, rows, *parts)
    plain, plain_gradients = gradients(reference_maxima, rows, *parts)
    torch.testing.assert_close(fast, plain, rtol=2e-6, atol=2e-6)
    for ours, theirs in zip(fast_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


needs_compiler = pytest.mark.skipif(native_library() is None, reason="no C compiler at hand")


@needs_compiler
@pytest.mark.parametrize(
    "rows", [rows_of(WORDS), torch.randint(0, 262, (40, 30)), torch.zeros(2, 9, dtype=torch.int64)]
)
def test_native_kernel(rows, monkeypatch):
    """Filters in groups of four vectors, single vectors and single values; results do not depend on threads."""
    parts = modules(torch.float32, widths=((1, 4), (2, 32), (3, 91), (9, 8)))
    monkeypatch.setenv("ELMO_HF_KERNELS", "torch")
    plain, plain_gradients = gradients(character_maxima, rows, *parts)
    monkeypatch.setenv("ELMO_HF_KERNELS", "native")
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            values, found = gradients(character_maxima, rows, *parts)
            assert is_looked_up(values)
            with torch.no_grad():
                assert torch.equal(character_maxima(rows, *parts), values)
            results.append((values, *found))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(results[0], (plain, *plain_gradients), strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


@needs_compiler
def test_native_kernel_propagates_nan(monkeypatch):
    monkeypatch.setenv("ELMO_HF_KERNELS", "native")
    table, convolutions = modules(torch.float32, widths=((1, 4), (2, 40)))
    with torch.no_grad():
        table.weight[98] = float("nan")
    rows = rows_of(WORDS)
    values, expected = character_maxima(rows, table, convolutions), reference_maxima(rows, table, convolutions)
    assert torch.equal(values.isnan(), expected.isnan()) and values.isnan().any()


@needs_compiler
def test_native_kernel_ids_out_of_range(monkeypatch):
    monkeypatch.setenv("ELMO_HF_KERNELS", "native")
    rows = rows_of(WORDS)
    for wrong in (-1, 262):
        rows[2, 3] = wrong
        with pytest.raises(IndexError, match=str(wrong)):
            character_maxima(rows, *modules(torch.float32))


def test_long_rows():
    """More positions than eight bits can count."""
    rows = torch.randint(1, 262, (4, 300))
    parts = modules(widths=((2, 64),))
    fast, fast_gradients = gradients(character_maxima, rows, *parts)
    plain, plain_gradients = gradients(reference_maxima, rows, *parts)
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-14)
    for ours, theirs in zip(fast_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradcheck(whole):
    """Compared with finite differences along a random direction, or (slow) for every weight."""
    table, convolutions = modules(widths=((1, 2), (3, 2)))
    rows = rows_of(WORDS[:5])

    def function(weight, *parameters):
        return torch.func.functional_call(
            _Maxima(table, convolutions), dict(zip(names, (weight, *parameters), strict=True)), (rows,)
        )

    names = [name for name, _ in _Maxima(table, convolutions).named_parameters()]
    parameters = [p for _, p in _Maxima(table, convolutions).named_parameters()]
    assert torch.autograd.gradcheck(function, parameters, fast_mode=not whole)


class _Maxima(nn.Module):
    def __init__(self, table, convolutions):
        super().__init__()
        self.table, self.convolutions = table, nn.ModuleList(convolutions)

    def forward(self, rows):
        return character_maxima(rows, self.table, list(self.convolutions))


def test_frozen_table_and_inference():
    table, convolutions = modules()
    rows = rows_of(WORDS)
    expected = reference_maxima(rows, table, convolutions)
    with torch.no_grad():
        torch.testing.assert_close(character_maxima(rows, table, convolutions), expected, rtol=0, atol=1e-14)
    table.requires_grad_(False)
    values = character_maxima(rows, table, convolutions)
    values.sum().backward()
    assert table.weight.grad is None and convolutions[0].weight.grad is not None


def test_other_modules_use_the_reference():
    table, convolutions = modules()
    rows = rows_of(WORDS)
    called = []
    handle = convolutions[1].register_forward_hook(lambda *_: called.append(1))
    assert not is_looked_up(character_maxima(rows, table, convolutions)) and called == [1]
    handle.remove()
    assert is_looked_up(character_maxima(rows, table, convolutions))

    class Adapted(nn.Conv1d):
        pass

    adapted = Adapted(3, 4, 1).double()
    assert not is_looked_up(character_maxima(rows, table, [adapted]))
    half = modules(torch.bfloat16)
    assert not is_looked_up(character_maxima(rows, *half))


def test_autocast_keeps_full_precision():
    table, convolutions = modules(torch.float32)
    rows = rows_of(WORDS)
    expected = character_maxima(rows, table, convolutions)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(character_maxima(rows, table, convolutions), expected)


def test_nan_propagates():
    """NaN weights give NaN results and no index error, so that a diverging run reports its loss."""
    table, convolutions = modules()
    with torch.no_grad():
        table.weight[98] = float("nan")
    rows = rows_of(WORDS)
    values = character_maxima(rows, table, convolutions)
    expected = reference_maxima(rows, table, convolutions)
    assert values.isnan().any()
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-14, equal_nan=True)
    (values.square().sum()).backward()
    assert convolutions[0].weight.grad.isnan().any()
