"""Transforms are inverted bit for bit, and do what their names say."""

import numpy as np
import pytest

from hub_upload import CheckpointError
from hub_upload.common.transforms import (
    CONVOLUTION,
    COPY,
    FIRST_OF_ONE,
    LSTM_BIAS,
    LSTM_KERNEL,
    NEGATED_GATE,
    PAD_ROWS,
    TRANSPOSE,
    subtract_forget_bias,
)


def numbers(*shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values.flat[0] = -0.0  # a sign that arithmetic would lose
    return values


@pytest.mark.parametrize(
    ("transform", "shape", "rows"),
    [
        (COPY, (3, 2), 3),
        (TRANSPOSE, (3, 2), 2),
        (PAD_ROWS, (5, 2), 6),
        (PAD_ROWS, (5,), 7),
        (CONVOLUTION, (1, 3, 2, 4), 4),
        (FIRST_OF_ONE, (1, 3, 2), 3),
        (LSTM_KERNEL, (6, 8), 8),
        (LSTM_BIAS, (8,), 8),
        (NEGATED_GATE, (6, 3), 3),
        (NEGATED_GATE, (6,), 3),
    ],
)
def test_every_transform_is_undone_bit_for_bit(transform, shape, rows):
    stored = numbers(*shape)
    parameters = transform.to_parameters(stored, rows)
    assert parameters[0].shape[0] == rows
    back = transform.to_original(parameters, shape[0])
    assert back.shape == shape
    assert back.dtype == np.float32
    assert back.tobytes() == stored.tobytes()


def test_padding_adds_zero_rows_at_both_ends():
    (padded,) = PAD_ROWS.to_parameters(np.float32([[1, 2], [3, 4]]), 4)
    assert padded.tolist() == [[0, 0], [1, 2], [3, 4], [0, 0]]


def test_lstm_kernel_is_split_transposed_and_reordered():
    # One input row above one recurrent row, gates i, g, f, o of one cell.
    inputs, recurrent = LSTM_KERNEL.to_parameters(np.float32([[1, 2, 3, 4], [5, 6, 7, 8]]), 4)
    assert inputs.ravel().tolist() == [1, 3, 2, 4]
    assert recurrent.ravel().tolist() == [5, 7, 6, 8]


def test_convolution_axes():
    stored = numbers(1, 3, 2, 4)
    (weight,) = CONVOLUTION.to_parameters(stored, 4)
    assert weight.shape == (4, 2, 3)
    assert weight[1, 0, 2] == stored[0, 2, 0, 1]


def test_forget_bias_is_subtracted_from_its_block_only_and_losses_are_counted():
    bias = np.float32([0, 0, 1.5, 1e-9, 0, 0, 0, 0])
    stored, lost = subtract_forget_bias(bias, 1.0)
    assert stored.tolist() == [0, 0, 0.5, -1, 0, 0, 0, 0]
    assert lost == 1  # 1e-9 is lost to rounding
    with pytest.raises(CheckpointError, match="forget bias nan"):
        subtract_forget_bias(bias, float("nan"))
