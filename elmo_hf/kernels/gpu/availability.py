"""Whether the kernels work on a GPU, found out once, and what `ELMO_HF_GPU` says of them."""

import math
import os
import warnings
from functools import cache
from importlib.util import find_spec

import torch

from .passes import Layout, Results, run_backward, run_forward, unaided
from .workspace import BidirectionalWeights, LstmConstants

SWITCH = "ELMO_HF_GPU"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def mode() -> str:
    """Of the environment: `"1"` (or nothing), kernels and CUDA graphs; `"eager"`, kernels alone; `"0"`, PyTorch alone.

    Raises:
        ValueError: another value.
    """
    value = os.environ.get(SWITCH, "") or "1"
    if value not in ("0", "1", "eager"):
        raise ValueError(
            f"{SWITCH}={value!r}: expected 1 (kernels and CUDA graphs), eager (kernels without graphs) or 0 (PyTorch's "
            "own operators)"
        )
    return value


def has_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this is a GPU on which Triton is installed and the kernels are right; if not, one warning says why.

    Of each GPU and dtype they are tried at the first call.
    """
    if device.type != "cuda" or dtype not in DTYPES or not _triton_is_installed() or mode() == "0":
        return False
    if (device, dtype) not in _right:
        if torch.cuda.is_current_stream_capturing():
            # To compile, and to ask for the result, would end the capture.
            return False
        _right[device, dtype] = try_kernels(device, dtype)
    return _right[device, dtype]


_right: dict[tuple[torch.device, torch.dtype], bool] = {}


@cache
def _triton_is_installed() -> bool:
    return find_spec("triton") is not None


def try_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `kernels_are_right`; warns of what keeps them from it."""
    try:
        with torch.inference_mode(False):
            problem = None if kernels_are_right(device, dtype) else "their results are wrong"
    except torch.OutOfMemoryError:
        raise  # which says nothing of the kernels
    except Exception as error:
        # Among them: no C compiler and no Python.h for Triton's launcher, a GPU too old or too new for it.
        problem = f"{type(error).__name__}: {error}"
    if problem is not None:
        warnings.warn(
            f"the biLSTM's Triton kernels do not work on {device} in {dtype} ({problem}); falling back to PyTorch's "
            f"operators, which are slower. {SWITCH}=0 does so from the start. Triton needs a C compiler and Python's "
            "headers (python3-dev)",
            RuntimeWarning,
            stacklevel=2,
        )
    return problem is None


def kernels_are_right(device: torch.device, dtype: torch.dtype) -> bool:
    """Try one step without weights, forward and backward: a cell of one is forgotten by sigmoid(1)."""
    constants = LstmConstants(2.0, 2.0, 1.0)
    with unaided(device):

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
            return zeros(*shape), zeros(*shape)

        weights = BidirectionalWeights(pair(8, 2), pair(8), pair(8, 2), pair(2, 2))
        cell = torch.ones(2, 1, 2, dtype=torch.float32, device=device)
        layout = Layout.of((1,), device)
        results, trace = run_forward(
            pair(1, 2), layout, zeros(2, 1, 2), cell, weights, constants, saves=True, graphs=False
        )
        if trace is None:
            return False
        upstream = Results(zeros(1, 2, 2), zeros(2, 1, 2), cell)
        gradients = run_backward(upstream, layout, trace, weights, constants, graphs=False)
        forgotten = torch.stack([results.cell, gradients.cell])
        return bool((forgotten - 1 / (1 + math.exp(-1))).abs().max() < 1e-3)
