"""Asynchronous copies from a GPU; on a CPU nothing is copied."""

import pytest
import torch

from elmo_hf.inference.host_copy import HostCopy


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand"))],
)
def test_copies_equal_their_source(device: str) -> None:
    expected = torch.randn(3, 1000)
    values = expected.to(device)
    copies = []
    for _ in range(3):
        values = values * 2
        copies.append(HostCopy(values))
    del values
    for number, copy in enumerate(copies, 1):
        torch.testing.assert_close(torch.from_numpy(copy.numpy()), expected * 2**number, rtol=0, atol=0)
    assert HostCopy(expected).numpy().ctypes.data == expected.data_ptr()
