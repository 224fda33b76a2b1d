"""Detection of changed weights."""

import pytest
import torch
from torch import nn

from elmo_hf import ElmoModel
from elmo_hf.kernels import prepared_weights
from elmo_hf.kernels.prepared_weights import Fingerprint, can_have_fingerprint
from modeling_tests.tiny import batch_of, tiny_config


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


def test_weights_without_a_fingerprint():
    with torch.inference_mode():
        assert not can_have_fingerprint(torch.zeros(3))
    assert not can_have_fingerprint(torch.zeros(3, 4).T)
    assert not can_have_fingerprint(torch.zeros(3, device="meta"))
    assert can_have_fingerprint(torch.zeros(3))


@torch.no_grad()
@pytest.mark.parametrize(("cell", "projection", "rows"), [(512, 128, slice(1, 16)), (4096, 512, slice(1, 64))])
def test_rows_written_through_data_are_seen(cell, projection, rows):
    """Changes of a few rows of a small layer and of the largest published one."""
    weight = nn.Parameter(torch.randn(projection, cell))
    taken = Fingerprint([weight])
    weight.data[rows] = 0
    assert not taken.is_of([weight])


@torch.no_grad()
def test_each_value_of_a_small_weight_is_seen():
    weight = nn.Parameter(torch.randn(256, 256))
    for place in (1, 777, 65535):
        taken = Fingerprint([weight])
        weight.data.view(-1)[place] += 1
        assert not taken.is_of([weight])


@torch.no_grad()
def test_values_of_several_dtypes_are_compared_as_bits():
    """Scales of about 0.01 beside integers are not rounded to zero."""
    integers, scale = torch.randint(-127, 127, (8, 8), dtype=torch.int8), torch.full((8,), 0.01)
    taken = Fingerprint([integers, scale])
    scale.data.mul_(3)
    assert not taken.is_of([integers, scale])


@torch.no_grad()
def test_refresh_forgets_what_was_prepared():
    model = ElmoModel(tiny_config(projection_size=16, cell_size=16)).eval()
    model.cache_word_vectors(1)
    batch = batch_of(["a cat sat", "a dog"])
    before = model(**batch).last_hidden_state
    assert any(module in prepared_weights._prepared for module in model.modules())
    assert model.embeddings in prepared_weights.kept_words
    model.refresh()
    assert not any(module in prepared_weights._prepared for module in model.modules())
    assert model.embeddings not in prepared_weights.kept_words
    assert torch.equal(model(**batch).last_hidden_state, before)


@torch.no_grad()
def test_a_forward_replaced_on_the_instance_is_called():
    """Offloading sets `forward` on instances, also of the character table and convolutions."""
    model = ElmoModel(tiny_config()).eval()
    batch = batch_of(["a cat sat"])
    model(**batch)
    called = []
    for module in (model.embeddings.character_embeddings, model.embeddings.convolutions[0]):
        plain = module.forward
        module.forward = lambda *args, plain=plain: called.append(1) or plain(*args)
    model(**batch)
    assert len(called) == 2
