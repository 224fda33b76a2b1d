"""The task's cells against their formulas, one word at a time."""

import pytest
import torch

from elmo_hf.model.encoders import ElmoHighwayLstm, ElmoTaskLstm, task_layers
from elmo_hf.model.packing import PackedBatch
from modeling_tests.tiny import tiny_config, with_large_weights

SIZES = [3, 3, 2, 1]  # rows of 4, 3 and 2 words


def by_definition(lstm, inputs, sizes, kept=None):
    """One row after the other, in plain steps."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    outputs = torch.zeros(starts[-1], lstm.size, dtype=inputs.dtype)
    for row in range(sizes[0] if sizes else 0):
        h = c = torch.zeros(lstm.size, dtype=inputs.dtype)
        for step in range(sum(size > row for size in sizes)):
            a = lstm.input_proj.weight @ inputs[starts[step] + row] + lstm.input_proj.bias
            b = lstm.hidden_proj.weight @ h
            i, f, g, o, *r = (a[: len(b)] + b).split(lstm.size)
            c = torch.sigmoid(i) * torch.tanh(g) + torch.sigmoid(f + lstm.forget_bias) * c
            h = torch.sigmoid(o) * torch.tanh(c)
            if r:
                h = torch.sigmoid(r[0]) * h + (1 - torch.sigmoid(r[0])) * a[5 * lstm.size :]
            if kept is not None:
                h = h * kept[row]
            outputs[starts[step] + row] = h
    return outputs


def cell(kind, **fields):
    return with_large_weights(kind(tiny_config(**fields), 4, 3)).double()


def zeros(lstm, inputs, rows):
    hidden = inputs.new_zeros(rows, lstm.size)
    return hidden, hidden.to(torch.promote_types(inputs.dtype, torch.float32))


def outputs_of(lstm, inputs, sizes):
    return lstm(inputs, sizes, *zeros(lstm, inputs, sizes[0] if sizes else 0))[0]


@pytest.mark.parametrize("kind", [ElmoTaskLstm, ElmoHighwayLstm])
@pytest.mark.parametrize("forget_bias", [1.0, 0.0])
def test_recurrence_equals_its_definition(kind, forget_bias):
    lstm = cell(kind, task_forget_bias=forget_bias).eval()
    inputs = torch.randn(9, 4, dtype=torch.float64)
    torch.testing.assert_close(outputs_of(lstm, inputs, SIZES), by_definition(lstm, inputs, SIZES), rtol=0, atol=1e-12)
    assert outputs_of(lstm, inputs[:0], []).shape == (0, 3)


@pytest.mark.parametrize("kind", [ElmoTaskLstm, ElmoHighwayLstm])
def test_state_carries_over_to_the_next_part(kind):
    """Rows of 4, 3 and 2 words in two parts, the first of 1, 3 and 0 of them; and one without any."""
    lstm = cell(kind).eval()
    inputs = torch.randn(9, 4, dtype=torch.float64)
    whole, *final = lstm(inputs, SIZES, *zeros(lstm, inputs, 4))
    rows = [list(inputs[[0, 3, 6, 8]]), list(inputs[[1, 4, 7]]), list(inputs[[2, 5]])]

    def read(parts, order, hidden, cell):
        """Packed by hand, longest row first."""
        sizes = [sum(len(parts[row]) > step for row in order) for step in range(len(parts[order[0]]))]
        packed = [parts[row][step] for step in range(len(sizes)) for row in order if len(parts[row]) > step]
        _, hidden_after, cell_after = lstm(torch.stack(packed), sizes, hidden[order], cell[order])
        back = torch.tensor(order).argsort()
        return hidden_after[back], cell_after[back]

    state = read([rows[0][:1], rows[1], [], []], [1, 0, 2, 3], *zeros(lstm, inputs, 4))
    state = read([rows[0][1:], [], rows[2], []], [0, 2, 1, 3], *state)
    for found, expected in zip(state, final, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert torch.equal(final[0][3], torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(final[0][:3], whole[[8, 7, 5]], rtol=0, atol=0)


@pytest.mark.parametrize("kind", [ElmoTaskLstm, ElmoHighwayLstm])
def test_recurrent_dropout_takes_the_same_components_from_all_words_of_a_row(kind, monkeypatch):
    lstm = cell(kind, task_recurrent_dropout=0.5)
    inputs = torch.randn(9, 4, dtype=torch.float64)
    masks = []
    run = kind._run

    def spy(self, inputs, sizes, hidden, cell, kept):
        masks.append(kept)
        return run(self, inputs, sizes, hidden, cell, kept)

    monkeypatch.setattr(kind, "_run", spy)
    found = outputs_of(lstm.train(), inputs, SIZES)
    assert set(masks[0].flatten().tolist()) <= {0.0, 2.0} and masks[0].shape == (3, 3)
    torch.testing.assert_close(found, by_definition(lstm, inputs, SIZES, masks[0]), rtol=0, atol=1e-12)
    outputs_of(lstm.eval(), inputs, SIZES)
    assert masks[1] is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ElmoTaskLstm, ElmoHighwayLstm])
def test_gradients_agree_with_finite_differences(kind):
    lstm = cell(kind)
    inputs = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    names, values = zip(
        *((name, value.detach().requires_grad_()) for name, value in lstm.named_parameters()), strict=True
    )

    def run(inputs, *values):
        return torch.func.functional_call(lstm, dict(zip(names, values, strict=True)), (inputs, SIZES, *state))[0]

    state = zeros(lstm, inputs, 3)
    assert torch.autograd.gradcheck(run, (inputs, *values), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["lstm", "highway_lstm"])
def test_both_directions_read_the_whole_layer_below(kind):
    layers = task_layers(tiny_config(task_encoder=kind), 4, 3, 2)
    with_large_weights(layers.double()).eval()
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]]).bool()
    packing = PackedBatch.from_mask(mask)
    words = torch.randn(2, 3, 4, dtype=torch.float64)
    packed = packing.pack(words, packing.forward_index)
    for layer in layers:
        packed, _ = layer(packed, packing)
    found = packing.unpack(packed, packing.forward_index)
    for row, real in enumerate(mask):
        sentence = words[row][real]
        for layer in layers:
            ones = [1] * len(sentence)
            ahead = by_definition(layer.forward_lstm, sentence, ones)
            back = by_definition(layer.backward_lstm, sentence.flip(0), ones).flip(0)
            sentence = torch.cat([ahead, back], dim=-1)
        torch.testing.assert_close(found[row][real], sentence, rtol=0, atol=1e-12)


def test_half_precision_close_to_float32():
    lstm = cell(ElmoHighwayLstm).float()
    inputs = torch.randn(9, 4)
    half = outputs_of(lstm.to(torch.bfloat16), inputs.bfloat16(), SIZES)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), outputs_of(lstm.float(), inputs, SIZES), rtol=0, atol=0.1)
