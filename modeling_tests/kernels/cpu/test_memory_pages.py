"""Memory for large weights. That of mapped files is tested where weights are packed."""

import torch

from elmo_hf.kernels.cpu.memory_pages import HUGE_PAGE, in_huge_pages


def test_tensors_are_aligned_to_pages_and_cache_lines() -> None:
    for count in (1, 1000, 3 << 20, 5 << 20):
        for dtype in (torch.float32, torch.bfloat16, torch.int8):
            memory = in_huge_pages(count, dtype)
            assert memory.shape == (count,) and memory.dtype == dtype
            large = count * dtype.itemsize >= 2 * HUGE_PAGE
            assert memory.data_ptr() % (HUGE_PAGE if large else 64) == 0
            memory.fill_(1)
            assert bool((memory == 1).all())
