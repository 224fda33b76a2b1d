"""Character convolutions as matmuls against the convolutions."""

from unittest import mock

import pytest
import torch
from torch import nn

from elmo_hf.kernels.gpu.characters import character_maxima, maxima_of_windows
from elmo_hf.model import operators
from modeling_tests.kernels.gpu.conftest import DEVICES
from modeling_tests.kernels.gpu.problems import assert_close


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bias", [True, False])
def test_maxima_and_gradients(device: str, bias: bool) -> None:
    """Ties among them, as between the windows of a word's tail, whose gradient is shared."""
    table = nn.Embedding(11, 3, padding_idx=0)
    convolutions = [nn.Conv1d(3, filters, width, bias=bias) for width, filters in ((1, 4), (2, 2), (5, 3))]
    modules = nn.ModuleList([table, *convolutions]).to(device)
    rows = torch.randint(11, (6, 8)).to(device)
    rows[:, 4:] = 0
    expected = operators.reference_maxima(rows, table, convolutions)
    tensors = [convolution.weight for convolution in convolutions], [convolution.bias for convolution in convolutions]
    with torch.backends.cudnn.flags(enabled=False):
        found = maxima_of_windows(rows, table.weight, 0, *tensors)
    assert_close([found], [expected], 1e-6)
    upstream = torch.randn(expected.shape).to(device)
    parameters = list(modules.parameters())
    assert_close(*(torch.autograd.grad(each, parameters, upstream) for each in (found, expected)), 1e-5)


def test_gpu_tensors_only() -> None:
    rows = torch.zeros(1, 5, dtype=torch.int64)
    assert isinstance(character_maxima(rows, torch.zeros(11, 3), 0, [], [], None), str)
    on_gpu = mock.Mock(device=torch.device("cuda"))
    with mock.patch("elmo_hf.kernels.gpu.characters.maxima_of_windows", lambda *args: args):
        assert character_maxima(on_gpu, "table", 0, [], [], None) == (on_gpu, "table", 0, [], [])


def test_registered_as_a_way_on_gpu() -> None:
    from elmo_hf.kernels import ways

    assert ("gpu", character_maxima) in ways("character_maxima")
