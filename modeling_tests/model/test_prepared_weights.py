"""Every way in which weights change is seen; what does not change them is not."""

import pytest
import torch
from torch import nn

from elmo_hf.model.prepared_weights import Fingerprint, can_have_fingerprint


def weights():
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(40, 30)), None, nn.Parameter(torch.randn(7)), nn.Parameter(torch.zeros(()))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_unchanged(dtype):
    some = [None if weight is None else nn.Parameter(weight.to(dtype)) for weight in weights()]
    taken = Fingerprint(some)
    (some[0] * 2).sum().backward()
    assert taken.is_of(some) and taken.is_of([weight for weight in some if weight is not None])


def test_mixed_dtypes_and_nan():
    some = [nn.Parameter(torch.full((5,), float("nan"))), nn.Parameter(torch.zeros(3).bfloat16())]
    assert Fingerprint(some).is_of(some)


@pytest.mark.parametrize("place", [0, 2, 3])
@torch.no_grad()
def test_changes(place):
    some = weights()
    taken = Fingerprint(some)
    some[place].add_(1)
    assert not taken.is_of(some)
    taken = Fingerprint(some)
    some[place].data.add_(1)
    assert not taken.is_of(some)
    taken = Fingerprint(some)
    some[place].data = some[place].clone()
    assert not taken.is_of(some)
    taken = Fingerprint(some)
    assert not taken.is_of(some[:place])


def test_weights_that_cannot_be_watched():
    with torch.inference_mode():
        assert not can_have_fingerprint(torch.zeros(3))
    assert not can_have_fingerprint(torch.zeros(3, 4).T)
    assert not can_have_fingerprint(torch.zeros(3, device="meta"))
    assert can_have_fingerprint(torch.zeros(3))
