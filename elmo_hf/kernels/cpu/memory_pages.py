"""The pages of memory that large weights lie in: huge ones for what is read often, none for what is hardly read again.

Both are advice that Linux may take; elsewhere they are without effect.
"""

import ctypes
import functools
import mmap
import sys
from collections.abc import Callable

import torch
from torch import Tensor

# Of madvise(2).
HUGE_PAGES, PAGE_OUT = 14, 21  # the second since Linux 5.4
HUGE_PAGE = 2 << 20  # bytes


def in_huge_pages(count: int, dtype: torch.dtype) -> Tensor:
    """An empty tensor [count] at the start of a cache line, in huge pages where it is large and the system has them.

    What is read from one end to the other for every word is read faster so: a processor fetches ahead only within a
    page.
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
    """Let the system take back the memory of a weight that is mapped from a checkpoint's file.

    Once packed, the plain weight is only read again to train, save or convert; its pages then come back from the file.
    Nothing is lost: pages that were changed are not the file's, and stay. Without effect on other systems than Linux,
    and on weights in ordinary memory.
    """
    start, end = weight.data_ptr(), weight.data_ptr() + weight.numel() * weight.element_size()
    if end - start >= mmap.PAGESIZE and _is_mapped_file(start, end):  # asking takes longer than packing a small one
        _advise(start, end, PAGE_OUT)


def _advise(start: int, end: int, advice: int) -> None:
    """`madvise` for the whole pages between two addresses."""
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
