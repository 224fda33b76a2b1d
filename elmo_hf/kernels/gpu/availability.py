"""Availability of the kernels on a GPU, tested once, and the environment variable `ELMO_HF_GPU`."""

import math
import os
import warnings
from functools import cache
from importlib.util import find_spec

import torch

from .passes import Layout, Results, run_backward, run_forward, without_autocast
from .workspace import BidirectionalWeights, LstmConstants, can_fuse

SWITCH = "ELMO_HF_GPU"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def mode() -> str:
    """Value of `ELMO_HF_GPU`: `"1"` (the default) for all kernels and CUDA graphs, `"eager"` for no CUDA graphs,
    `"unfused"` for separate kernels of the gates' matmul and the cell, `"0"` for PyTorch only.

    Raises:
        ValueError: another value.
    """
    value = os.environ.get(SWITCH, "") or "1"
    if value not in ("0", "1", "eager", "unfused"):
        raise ValueError(
            f"{SWITCH}={value!r}: expected 1 (kernels and CUDA graphs), eager (kernels without graphs), unfused "
            "(kernels and graphs, the gates' matmul by cuBLAS) or 0 (PyTorch's own operators)"
        )
    return value


def has_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """True if this is a GPU, Triton is installed and the kernels give correct results; otherwise warns once.

    The kernels are tested at the first call for each GPU and dtype.
    """
    if device.type != "cuda" or dtype not in DTYPES or not _triton_is_installed() or mode() == "0":
        return False
    return _are_right(device, dtype, False)


def fuses(device: torch.device, dtype: torch.dtype) -> bool:
    """True if gates' matmul and cell should be one kernel, given `has_kernels`; tested at the first call too."""
    return can_fuse(device, dtype) and mode() != "unfused" and _are_right(device, dtype, True)


def _are_right(device: torch.device, dtype: torch.dtype, fused: bool) -> bool:
    key = device, dtype, fused
    if key not in _right:
        if torch.cuda.is_current_stream_capturing():
            # Compiling kernels and reading their results would invalidate the capture.
            return False
        _right[key] = try_kernels(*key)
    return _right[key]


_right: dict[tuple[torch.device, torch.dtype, bool], bool] = {}


@cache
def _triton_is_installed() -> bool:
    return find_spec("triton") is not None


def try_kernels(device: torch.device, dtype: torch.dtype, fused: bool) -> bool:
    """True if `kernels_are_right`; warns with the reason if they are not, or fail."""
    try:
        with torch.inference_mode(False):
            problem = None if kernels_are_right(device, dtype, fused) else "their results are wrong"
    except torch.OutOfMemoryError:
        raise  # not caused by the kernels
    except Exception as error:
        # For instance no C compiler or Python.h for Triton's launcher, or a GPU that Triton does not support.
        problem = f"{type(error).__name__}: {error}"
    if problem is not None:
        what, instead, value = ("kernels do", "PyTorch's operators", "0")
        if fused:
            what, instead, value = ("fused kernel does", "separate kernels", "unfused")
        warnings.warn(
            f"the biLSTM's Triton {what} not work on {device} in {dtype} ({problem}); falling back to {instead}, which "
            f"is slower. Set {SWITCH}={value} to silence this. Triton needs a C compiler and Python's headers "
            "(python3-dev)",
            RuntimeWarning,
            stacklevel=2,
        )
    return problem is None


def kernels_are_right(device: torch.device, dtype: torch.dtype, fused: bool) -> bool:
    """Run one step forward and backward and check the results; of the fused kernel, the forward step in both blockings.

    The sums of the gates i, f, g, o are 1, 2, 1/2 and 1: a hidden state of ones times weights of 1 / its width, plus
    biases. The previous cell is 1.
    """
    constants = LstmConstants(2.0, 2.0, 0.0)
    size = 64  # of cell and hidden state; divisible like real sizes, for which Triton compiles specialized kernels
    added, forget = torch.tensor([1.0, 2.0], device="cpu").sigmoid().tolist()

    def is_near(found: torch.Tensor, value: float) -> bool:
        return bool((found - value).abs().max() < 1e-3)

    with without_autocast(device):

        def pair(value: float, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
            both = torch.full((2, *shape), value, dtype=dtype, device=device)
            return both[0], both[1]

        biases = pair(0, 4 * size)
        for bias in biases:
            bias[size : 2 * size], bias[2 * size : 3 * size] = 1.0, -0.5
        weights = BidirectionalWeights(
            pair(0, 4 * size, size), biases, pair(1 / size, 4 * size, size), pair(0, size, size)
        )
        for rows in (1, 65) if fused else (1,):
            hidden = torch.ones(2, rows, size, dtype=dtype, device=device)
            cell = torch.ones(2, rows, size, dtype=torch.float32, device=device)
            layout = Layout.of((rows,), device)
            results, trace = run_forward(
                pair(0, rows, size), layout, hidden, cell, weights, constants, saves=True, graphs=False, fuses=fused
            )
            if not is_near(results.cell, forget + added * math.tanh(0.5)):
                return False
        if fused or trace is None:
            return trace is not None
        upstream = Results(hidden.new_zeros(rows, 2, size), torch.zeros_like(hidden), torch.ones_like(cell))
        gradients = run_backward(upstream, layout, trace, weights, constants, graphs=False, fuses=fused)
        return is_near(gradients.cell, forget)
