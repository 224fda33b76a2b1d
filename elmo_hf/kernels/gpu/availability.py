"""Whether the kernels work on a GPU, found out once, and what `ELMO_HF_GPU` says of them."""

import math
import os
import warnings
from functools import cache
from importlib.util import find_spec

import torch

from .passes import Layout, Results, run_backward, run_forward, unaided
from .workspace import BidirectionalWeights, LstmConstants, can_fuse

SWITCH = "ELMO_HF_GPU"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def mode() -> str:
    """Of the environment: `"1"` (or nothing), all there is; `"eager"`, no CUDA graphs; `"unfused"`, the gates' matmul
    and the cell apart; `"0"`, PyTorch alone.

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
    """Whether this is a GPU on which Triton is installed and the kernels are right; if not, one warning says why.

    Of each GPU and dtype they are tried at the first call.
    """
    if device.type != "cuda" or dtype not in DTYPES or not _triton_is_installed() or mode() == "0":
        return False
    return _are_right(device, dtype, False)


def fuses(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the gates' matmul and the cell are to be one kernel, where `has_kernels`; it is tried in the same way."""
    return can_fuse(device, dtype) and mode() != "unfused" and _are_right(device, dtype, True)


def _are_right(device: torch.device, dtype: torch.dtype, fused: bool) -> bool:
    key = device, dtype, fused
    if key not in _right:
        if torch.cuda.is_current_stream_capturing():
            # To compile, and to ask for the result, would end the capture.
            return False
        _right[key] = try_kernels(*key)
    return _right[key]


_right: dict[tuple[torch.device, torch.dtype, bool], bool] = {}


@cache
def _triton_is_installed() -> bool:
    return find_spec("triton") is not None


def try_kernels(device: torch.device, dtype: torch.dtype, fused: bool) -> bool:
    """Whether `kernels_are_right`; warns of what keeps them from it."""
    try:
        with torch.inference_mode(False):
            problem = None if kernels_are_right(device, dtype, fused) else "their results are wrong"
    except torch.OutOfMemoryError:
        raise  # which says nothing of the kernels
    except Exception as error:
        # Among them: no C compiler and no Python.h for Triton's launcher, a GPU too old or too new for it.
        problem = f"{type(error).__name__}: {error}"
    if problem is not None:
        what, instead, value = ("kernels do", "PyTorch's operators", "0")
        if fused:
            what, instead, value = ("fused kernel does", "the matmul and the cell apart", "unfused")
        warnings.warn(
            f"the biLSTM's Triton {what} not work on {device} in {dtype} ({problem}); falling back to {instead}, more "
            f"slowly. {SWITCH}={value} does so from the start. Triton needs a C compiler and Python's headers "
            "(python3-dev)",
            RuntimeWarning,
            stacklevel=2,
        )
    return problem is None


def kernels_are_right(device: torch.device, dtype: torch.dtype, fused: bool) -> bool:
    """Try one step forward and backward; the fused kernel, which is of the forward pass alone, with both its blocks.

    The sums of the gates i, f, g, o are 1, 2, 1/2 and 1: a hidden state of ones through weights of 1 / its width, and
    biases. The cell before is 1.
    """
    constants = LstmConstants(2.0, 2.0, 0.0)
    size = 64  # of cell and hidden state: divisible as those of a real model, which is compiled for
    added, forget = torch.tensor([1.0, 2.0], device="cpu").sigmoid().tolist()

    def is_near(found: torch.Tensor, value: float) -> bool:
        return bool((found - value).abs().max() < 1e-3)

    with unaided(device):

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
