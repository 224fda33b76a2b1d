"""The layer mix, and its options."""

import pytest
import torch

from elmo_hf.model.scalar_mix import ElmoScalarMix, normalize_layer
from modeling_tests.tiny import tiny_config


def mix_with(weights=(0.1, 0.3, 0.5), gamma=1.1, **overrides):
    """Weights and gamma of bilm-tf's own test of `weight_layers`."""
    mix = ElmoScalarMix(tiny_config(**overrides))
    with torch.no_grad():
        mix.gamma.fill_(gamma)
        if hasattr(mix, "weights"):
            mix.weights.copy_(torch.tensor(weights))
    return mix


@pytest.fixture
def layers():
    return [torch.randn(2, 5, 8) for _ in range(3)]


@pytest.fixture
def mask():
    return torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)


def test_softmax_weighted_sum(layers, mask):
    raw = torch.tensor([0.1, 0.3, 0.5]).exp()
    expected = 1.1 * sum(w * layer for w, layer in zip(raw / raw.sum(), layers, strict=True))
    torch.testing.assert_close(mix_with()(layers, mask, mask), expected)


def test_starts_as_the_average(layers, mask):
    mix = ElmoScalarMix(tiny_config())
    mix.reset_weights()
    torch.testing.assert_close(mix(layers, mask, mask), torch.stack(layers).mean(0))


def test_starts_at_the_given_parameters(layers, mask):
    """AllenNLP selects one layer by large fixed weights."""
    mix = ElmoScalarMix(tiny_config(scalar_mix_parameters=[-9e10, 1, -9e10]))
    mix.reset_weights()
    torch.testing.assert_close(mix(layers, mask, mask), layers[1])


def test_top_layer_only(layers, mask):
    mix = mix_with(scalar_mix="top", scalar_mix_layer_norm="tokens")
    torch.testing.assert_close(mix(layers, mask, mask), 1.1 * layers[2])
    assert [name for name, _ in mix.named_parameters()] == ["gamma"]
    assert mix.normalized_weights().tolist() == [0, 0, 1]
    assert mix.penalty() == 0


def test_penalty_leaves_gamma_free():
    torch.testing.assert_close(mix_with().penalty(), torch.tensor(0.35))


def test_normalization_counts_marked_positions_only(mask):
    layer = torch.randn(2, 5, 8).double()
    found = normalize_layer(layer, mask, 1e-12)
    values = layer[mask]
    torch.testing.assert_close(found, (layer - values.mean()) / (values.var(unbiased=False) + 1e-12).sqrt())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_normalization_of_half_precision(dtype):
    """655,360 elements: more than float16 can count or bfloat16 can sum."""
    layer, mask = (torch.randn(32, 20, 1024) + 3).to(dtype), torch.ones(32, 20, dtype=torch.bool)
    expected = normalize_layer(layer.float(), mask, 1e-12)
    torch.testing.assert_close(normalize_layer(layer, mask, 1e-12).float(), expected, rtol=0, atol=0.02)


def test_normalized_mix_is_zero_at_padding(layers, mask):
    mixed = mix_with(scalar_mix_layer_norm="tokens")(layers, mask, mask)
    assert (mixed[~mask] == 0).all() and (mixed[mask] != 0).all()


def test_wrong_number_of_layers(layers, mask):
    with pytest.raises(ValueError, match="2 layers.* mix of 3"):
        mix_with()(layers[:2], mask, mask)
