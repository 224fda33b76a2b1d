"""Memory pages of large weights: huge pages for weights read often, paging out for weights hardly read again.

Both are hints to Linux and have no effect on other systems.
"""

import ctypes
import functools
import mmap
import sys
from collections.abc import Callable

import torch
from torch import Tensor

# Constants of madvise(2).
HUGE_PAGES, PAGE_OUT = 14, 21  # PAGE_OUT exists since Linux 5.4
HUGE_PAGE = 2 << 20  # bytes


def in_huge_pages(count: int, dtype: torch.dtype) -> Tensor:
    """An empty tensor [count], aligned to a cache line; in huge pages if it is large and the system supports them.

    Sequential reads are faster in huge pages, because a CPU prefetches only within a page.
    """
    size = dtype.itemsize
    alignment = HUGE_PAGE if count * size >= 2 * HUGE_PAGE else 64
    memory = torch.empty(count + alignment // size, dtype=dtype, device="cpu")
    start = -memory.data_ptr() % alignment // size
    tensor = memory[start : start + count]
    if alignment == HUGE_PAGE:
        _advise(tensor.data_ptr(), tensor.data_ptr() + count * size, HUGE_PAGES)
    return tensor


def drop_pages(weight: Tensor) -> None:
    """Let the system reclaim the memory of a weight that is mapped from a checkpoint file.

    Once a weight is packed, its plain form is read again only for training, saving or conversion; its pages are then
    read back from the file. No data is lost, since modified pages are kept. Has no effect on systems other than Linux
    and on weights in ordinary memory.
    """
    start, end = weight.data_ptr(), weight.data_ptr() + weight.numel() * weight.element_size()
    if end - start >= mmap.PAGESIZE and _is_mapped_file(start, end):  # asking takes longer than packing a small one
        _advise(start, end, PAGE_OUT)


def _advise(start: int, end: int, advice: int) -> None:
    """Call `madvise` for the whole pages between two addresses."""
    advise = _madvise()
    start, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if advise is not None and start < end:
        advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)


@functools.cache
def _madvise() -> Callable[..., int] | None:
    try:
        return ctypes.CDLL(None).madvise if sys.platform == "linux" else None
    except (OSError, AttributeError, TypeError):
        return None


def _is_mapped_file(start: int, end: int) -> bool:
    try:
        with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
            for line in maps:
                fields = line.split(maxsplit=5)
                first, last = (int(part, 16) for part in fields[0].split("-"))
                if first <= start < last:
                    return end <= last and len(fields) == 6 and fields[5].startswith("/")
    except (OSError, ValueError):
        pass
    return False
