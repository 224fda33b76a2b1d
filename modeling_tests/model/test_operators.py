"""The reference recurrence, compared with a loop over rows and steps; gradients with finite differences."""

import logging

import pytest
import torch

from elmo_hf import ElmoModel, kernels
from elmo_hf.model.operators import projected_lstm, reference_lstm
from elmo_hf.model.state import ElmoState
from modeling_tests.tiny import batch_of, tiny_config

ROWS, WIDTH, CELL = 4, 3, 5


def weights(dtype=torch.float64, projected=True):
    size = CELL if projected else WIDTH
    draw = [(4 * size, WIDTH), (4 * size,), (4 * size, WIDTH), *([(WIDTH, size)] if projected else [])]
    return [torch.randn(shape, dtype=dtype) * 0.8 for shape in draw], size


def products(w, bias, u, p=None):
    linear = torch.nn.functional.linear
    return lambda x: linear(x, w, bias), lambda h: linear(h, u), (None if p is None else lambda o: linear(o, p))


def one_row(inputs, hidden, cell, tensors, cell_clip, projection_clip, forget_bias):
    """The formulas of the docstring, one vector at a time."""
    w, bias, u, *p = tensors
    outputs = []
    for x in inputs:
        i, f, g, o = (w @ x + bias + u @ hidden).chunk(4)
        cell = torch.sigmoid(f + forget_bias) * cell + torch.sigmoid(i) * torch.tanh(g)
        cell = cell if cell_clip is None else cell.clip(-cell_clip, cell_clip)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        if p:
            hidden = p[0] @ hidden
            hidden = hidden if projection_clip is None else hidden.clip(-projection_clip, projection_clip)
        outputs.append(hidden)
    return outputs, hidden, cell


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("clips", [(None, None), (0.4, 0.3), (0.0, None)])
@pytest.mark.parametrize("lengths", [(4, 4, 4, 4), (5, 3, 3, 1), (6, 1, 0, 0), (0, 0, 0, 0)])
def test_packed_rows_equal_single_rows(projected, clips, lengths):
    tensors, size = weights(projected=projected)
    texts = [torch.randn(length, WIDTH, dtype=torch.float64) for length in lengths]
    hidden, cell = torch.randn(ROWS, WIDTH).double(), torch.randn(ROWS, size).double()
    sizes = [sum(length > step for length in lengths) for step in range(max(lengths))]
    packed = [text[step] for step in range(max(lengths)) for text in texts if len(text) > step]
    inputs = torch.stack(packed) if packed else torch.zeros(0, WIDTH, dtype=torch.float64)
    settings = dict(cell_clip=clips[0], projection_clip=clips[1], forget_bias=1.0)
    outputs, last_hidden, last_cell = reference_lstm(inputs, sizes, hidden, cell, *products(*tensors), **settings)
    assert outputs.shape == (len(packed), WIDTH)
    starts = [sum(sizes[:step]) for step in range(len(sizes))]
    for row, text in enumerate(texts):
        expected, final_hidden, final_cell = one_row(text, hidden[row], cell[row], tensors, *clips, 1.0)
        for step, value in enumerate(expected):
            torch.testing.assert_close(outputs[starts[step] + row], value, rtol=0, atol=1e-12)
        torch.testing.assert_close(last_hidden[row], final_hidden, rtol=0, atol=1e-12)
        torch.testing.assert_close(last_cell[row], final_cell, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("clips", [(None, None), (0.9, 0.6)])
def test_gradients(clips):
    tensors, _ = weights()
    inputs = torch.randn(7, WIDTH, dtype=torch.float64)
    hidden, cell = torch.randn(ROWS, WIDTH).double(), torch.randn(ROWS, CELL).double()
    arguments = [value.requires_grad_() for value in (inputs, hidden, cell, *tensors)]

    def run(x, h, c, *parameters):
        settings = dict(cell_clip=clips[0], projection_clip=clips[1], forget_bias=1.0)
        return reference_lstm(x, [3, 3, 1], h, c, *products(*parameters), **settings)

    assert torch.autograd.gradcheck(run, arguments)


def test_dispatch_calls_the_modules():
    """Adapters and hooks replace or wrap the layers, so the recurrence has to go through them."""
    layers = [torch.nn.Linear(WIDTH, 4 * CELL), torch.nn.Linear(WIDTH, 4 * CELL), torch.nn.Linear(CELL, WIDTH)]
    calls = [0, 0, 0]
    for index, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, index=index: calls.__setitem__(index, calls[index] + 1))
    projected_lstm(
        torch.randn(5, WIDTH), [2, 2, 1], torch.zeros(2, WIDTH), torch.zeros(2, CELL), *layers,
        cell_clip=3.0, projection_clip=3.0, forget_bias=1.0,
    )  # fmt: skip
    # The input matmul of all steps is one call.
    assert calls == [1, 3, 3]


def test_cell_stays_in_single_precision_under_half():
    layers = [
        torch.nn.Linear(WIDTH, 4 * CELL).bfloat16(),
        torch.nn.Linear(WIDTH, 4 * CELL, bias=False).bfloat16(),
        torch.nn.Linear(CELL, WIDTH, bias=False).bfloat16(),
    ]
    outputs, hidden, cell = projected_lstm(
        torch.randn(5, WIDTH).bfloat16(), [2, 2, 1], torch.zeros(2, WIDTH).bfloat16(), torch.zeros(2, CELL), *layers,
        cell_clip=3.0, projection_clip=3.0, forget_bias=1.0,
    )  # fmt: skip
    assert outputs.dtype == hidden.dtype == torch.bfloat16
    assert cell.dtype == torch.float32


def test_state_of_single_rows_is_reset():
    state = ElmoState(torch.randn(2, 2, ROWS, WIDTH), torch.randn(2, 2, ROWS, CELL))
    rows = torch.rand(2, ROWS) < 0.5
    rows[0, 0], rows[1, 0] = True, False
    fresh = state.reset(rows)
    for before, after in zip(state, fresh, strict=True):
        assert after.shape == before.shape
        for direction in range(2):
            for row in range(ROWS):
                expected = before[:, direction, row] * (not rows[direction, row])
                torch.testing.assert_close(after[:, direction, row], expected, atol=0, rtol=0)


def test_an_unknown_choice_of_kernels_is_refused(monkeypatch):
    model = ElmoModel(tiny_config()).eval()
    monkeypatch.setenv("ELMO_HF_KERNELS", "bogus")
    with pytest.raises(ValueError, match="ELMO_HF_KERNELS='bogus'"), torch.no_grad():
        model(**batch_of(["a"]))


@torch.no_grad()
def test_the_chosen_kernel_is_logged_once_with_reasons(monkeypatch, caplog):
    monkeypatch.setenv("ELMO_HF_KERNELS", "torch")
    kernels._log_once.cache_clear()
    model = ElmoModel(tiny_config()).eval()
    with caplog.at_level(logging.DEBUG, "elmo_hf.kernels"):
        for _ in range(2):
            model(**batch_of(["a cat"]))
    lines = [record.getMessage() for record in caplog.records if record.name == "elmo_hf.kernels"]
    assert len(lines) == len(set(lines))
    assert [line for line in lines if line.startswith("projected_lstm: torch (declined: torch: ")], lines
