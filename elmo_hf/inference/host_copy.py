"""Results on their way from a GPU to the host, while the GPU goes on to the next batch."""

from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class HostCopy:
    """A tensor's values on the host: asked for at once, waited for when they are read.

    From a GPU they go into page-locked memory, on a stream beside that of the computation.
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
            # Its memory must not be given to another tensor before.
            values.record_stream(stream)

    def numpy(self) -> NDArray[Any]:
        """The values; of a GPU's, an array in page-locked memory, which is dear: copy what is to be kept."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.cpu().numpy()
