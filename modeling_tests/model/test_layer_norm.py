"""The layer norm, compared with its formula and with PyTorch's."""

import pytest
import torch

from elmo_hf.model.layer_norm import ElmoLayerNorm


@pytest.mark.parametrize("epsilon", [1e-6, 1e-13, 0.3])
def test_the_formula(epsilon):
    norm = ElmoLayerNorm(5, epsilon).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(3, 2, 5).double()
    for row, found in zip(x.reshape(-1, 5), norm(x).reshape(-1, 5), strict=True):
        mean = sum(row) / 5
        deviation = (sum((value - mean) ** 2 for value in row) / 5) ** 0.5
        expected = norm.weight * (row - mean) / (deviation + epsilon) + norm.bias
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(norm, x.requires_grad_())


def test_epsilon_is_not_that_of_torch():
    x = torch.randn(4, 6) / 10
    ours, theirs = ElmoLayerNorm(6, 1e-2), torch.nn.LayerNorm(6, eps=1e-2)
    assert (ours(x) - theirs(x)).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_one_value_are_finite(dtype):
    """Also in half precision, where an epsilon of 1e-13 underflows to zero."""
    norm = ElmoLayerNorm(4, 1e-13).to(dtype)
    x = torch.zeros(2, 4, dtype=dtype, requires_grad=True)
    found = norm(x)
    assert found.dtype == dtype
    assert torch.equal(found, torch.zeros_like(found))
    slopes = torch.tensor([1.0, -1, 2, 0])
    (found * slopes).sum().backward()
    if dtype != torch.float16:  # which ends at 65,504
        expected = (slopes - slopes.mean()).expand(2, 4) / 1e-13
        torch.testing.assert_close(x.grad, expected.to(dtype), rtol=0.02, atol=0)
