"""Counter of host synchronizations with a GPU: reported by CUDA on a GPU, else derived from operators."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose result, or its size, the host needs.
ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal")
# Calls that copy values to the host and are not operators for CPU tensors.
READING = ("tolist", "numpy", "cpu", "__array__")
# Calls that send new values from pageable host memory.
SENDING = ("tensor", "as_tensor")


class _Operators(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator.overloadpacket.__name__
        places = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        if name in ASKING or any(each is not None and each.dtype == torch.bool for each in places):
            self.found.append(name)
        return operator(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        sends = name in SENDING and str(kwargs.get("device", "cpu")) != "cpu"
        if name in READING or sends:
            self.found.append(name)
        return function(*args, **kwargs)


@contextmanager
def waits(device: str = "cpu") -> Iterator[list[str]]:
    """Synchronizations within the block; on a CPU, those that would occur on a GPU.

    A CPU does not tell a copy from one device to another: `torch.tensor(..., device=...)` counts if a device is named.
    """
    found: list[str] = []
    if device == "cuda":
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode("default")
        found += [str(each.message) for each in record if "synchronizing" in str(each.message)]
    else:
        with _Operators(found), _Calls(found):
            yield found
