"""Asynchronous copies of results from a GPU to the host."""

from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class HostCopy:
    """A copy of a tensor on the host: started at construction, awaited when read.

    From a GPU, values are copied into page-locked memory on a separate stream.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._copied: torch.cuda.Event | None = None
        if values.is_cuda:
            stream = _copy_stream(values.device)
            stream.wait_stream(torch.cuda.current_stream(values.device))
            with torch.cuda.stream(stream):
                self._values = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
                self._values.copy_(values, non_blocking=True)
                self._copied = stream.record_event()
            # The tensor's memory must not be reused before the copy has finished.
            values.record_stream(stream)

    def numpy(self) -> NDArray[Any]:
        """The values. From a GPU they are in page-locked memory, which is scarce: copy what you keep."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.cpu().numpy()
