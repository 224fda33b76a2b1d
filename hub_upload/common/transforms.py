"""Named, exact, invertible transforms between stored arrays and parameters.

Transforms only move values, except for the sign of AllenNLP's highway gate (flipping a sign is exact).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError

Array = NDArray[np.float32]

# Indices of TensorFlow's LSTMCell gate blocks (input, candidate, forget, output) in our order (input, forget,
# candidate, output). Swapping the middle two is its own inverse.
GATES_FROM_TENSORFLOW = (0, 2, 1, 3)


@dataclass(frozen=True)
class Transform:
    """An invertible map between one array of an original checkpoint and one or more parameters.

    Attributes:
        to_parameters: (array, rows) -> parameters, in the order of the rule's names. `rows` is the number of rows of
            the first parameter, used only for tables that gain rows.
        to_original: (parameters, rows) -> array; `rows` is the number of rows of the original.
    """

    to_parameters: Callable[[Array, int], tuple[Array, ...]]
    to_original: Callable[[Sequence[Array], int], Array]


def _reorder_gates(array: Array) -> Array:
    """Exchange the two middle blocks of H rows in [4 * H, ...]."""
    blocks = array.reshape(4, array.shape[0] // 4, *array.shape[1:])
    return np.ascontiguousarray(blocks[list(GATES_FROM_TENSORFLOW)]).reshape(array.shape)


def _pad_rows(array: Array, rows: int) -> tuple[Array, ...]:
    """Add one zero row before the array, and zero rows after it up to `rows`."""
    padded = np.zeros((rows, *array.shape[1:]), dtype=array.dtype)
    padded[1 : len(array) + 1] = array
    return (padded,)


def _cut_rows(arrays: Sequence[Array], rows: int) -> Array:
    return np.ascontiguousarray(arrays[0][1 : rows + 1])


def _split_lstm_kernel(array: Array, rows: int) -> tuple[Array, ...]:
    """Split [2 * P, 4 * H] into input and recurrent weights, each [4 * H, P]."""
    inputs, recurrent = np.split(array, 2)
    return _reorder_gates(inputs.T), _reorder_gates(recurrent.T)


def _join_lstm_kernel(arrays: Sequence[Array], rows: int) -> Array:
    return np.concatenate([_reorder_gates(array).T for array in arrays])


def _split_highway(array: Array, rows: int) -> tuple[Array, ...]:
    """Split [2 * F, ...] into non-linear branch and negated gate, each [F, ...]."""
    nonlinear, gate = np.split(array, 2)
    return np.ascontiguousarray(nonlinear), np.negative(gate)


def _join_highway(arrays: Sequence[Array], rows: int) -> Array:
    nonlinear, gate = arrays
    return np.concatenate([nonlinear, np.negative(gate)])


COPY = Transform(lambda array, rows: (array,), lambda arrays, rows: arrays[0])
TRANSPOSE = Transform(
    lambda array, rows: (np.ascontiguousarray(array.T),), lambda arrays, rows: np.ascontiguousarray(arrays[0].T)
)
PAD_ROWS = Transform(_pad_rows, _cut_rows)
# The height of 1 is dropped, and the axes are reversed.
CONVOLUTION = Transform(
    lambda array, rows: (np.ascontiguousarray(array[0].T),),
    lambda arrays, rows: np.ascontiguousarray(arrays[0].T)[None],
)
FIRST_OF_ONE = Transform(lambda array, rows: (np.ascontiguousarray(array[0]),), lambda arrays, rows: arrays[0][None])
LSTM_KERNEL = Transform(_split_lstm_kernel, _join_lstm_kernel)
LSTM_BIAS = Transform(lambda array, rows: (_reorder_gates(array),), lambda arrays, rows: _reorder_gates(arrays[0]))
NEGATED_GATE = Transform(_split_highway, _join_highway)


def subtract_forget_bias(bias: Array, constant: float) -> tuple[Array, int]:
    """Subtract `constant` from the forget block of a bias [4 * H] in our gate order, for readers that add it again.

    Returns:
        The bias, and the number of values that are not restored bit for bit when a float32 program adds the constant.
    """
    if not np.isfinite(constant):
        raise CheckpointError(f"forget bias {constant}: expected a finite number")
    size = len(bias) // 4
    stored = bias.copy()
    stored[size : 2 * size] = bias[size : 2 * size] - np.float32(constant)
    restored = stored[size : 2 * size] + np.float32(constant)
    return stored, int(np.count_nonzero(restored != bias[size : 2 * size]))
