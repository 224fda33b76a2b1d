"""Fixtures of the GPU kernels' tests: CPU tensors under Triton's interpreter, and a GPU if there is one."""

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elmo_hf.kernels.gpu import availability, graphs

KERNELS = "elmo_hf.kernels.gpu.step_kernels"
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Tensors of the interpreter's kernels, or of a GPU's."""
    pytest.importorskip("triton", reason="Triton is not installed (there is none for this system?)")
    monkeypatch.setenv("TRITON_INTERPRET", str(int(request.param == "cpu")))
    monkeypatch.delitem(sys.modules, KERNELS, raising=False)
    importlib.import_module(KERNELS)  # `triton.jit` looks at the environment when a kernel is defined
    mend_interpreter(monkeypatch)
    yield request.param
    sys.modules.pop(KERNELS, None)


def mend_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter (3.6 to 3.9) keeps bfloat16 as integers of 16 bits, and multiplies those as matrices."""
    interpreter = importlib.import_module("triton.runtime.interpreter")
    bfloat16 = importlib.import_module("triton.language").bfloat16

    def values(handle: Any) -> Any:
        data = handle.data
        return (data.astype(np.uint32) << 16).view(np.float32) if handle.dtype.scalar == bfloat16 else data

    def create_dot(builder: Any, one: Any, other: Any, sums: Any, *settings: Any) -> Any:
        product = np.matmul(values(one), values(other), dtype=np.float32)
        return interpreter.TensorHandle(product + sums.data, sums.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture
def in_float32(request: pytest.FixtureRequest, device: str) -> None:
    """Tests that fuse in float32, to tell rounding from faults, do so under the interpreter alone: no GPU does."""
    if device == "cuda" and request.node.callspec.params.get("fuses"):
        pytest.skip("float32 is not fused on a GPU")


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Clear buffers and availability results before and after each test."""

    def forget() -> None:
        graphs.owners.clear()
        graphs.captures.failed = False
        availability._right.clear()

    forget()
    yield
    forget()


@pytest.fixture
def as_if_graphed(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Emulate graphs on a CPU: static buffers larger than the batch, an odd number of rows, repeated launches."""
    if device == "cpu":
        monkeypatch.setattr(graphs.Captures, "work", lambda captures, device: not captures.failed)
        monkeypatch.setattr(graphs, "CAPACITIES", (5, 9))
        monkeypatch.setattr(graphs, "rounded_up", lambda rows: rows | 1)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill `torch.empty` with NaN, so that reads of unwritten memory show."""
    new = {"empty": torch.empty, "empty_like": torch.empty_like}

    def nan(tensor: Tensor) -> Tensor:
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor.zero_()

    for name, made in new.items():
        monkeypatch.setattr(torch, name, lambda *args, made=made, **settings: nan(made(*args, **settings)))
    new_empty = Tensor.new_empty
    monkeypatch.setattr(Tensor, "new_empty", lambda tensor, *shape, **kw: nan(new_empty(tensor, *shape, **kw)))
